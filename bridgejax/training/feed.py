"""Batches on their way to the device: checked, placed, and some of them ahead of the step that uses them."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import jax

from bridgejax.training.batches import Batch

# Batches on the device beside the one in use.
AHEAD = 2

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class PlacedBatch:
    """A batch that was checked and whose transfer to the device began.

    Attributes:
      parts: what the step uses of it, on the device.
      given: the same as it came; labels on the host are checked against it once the number of classes is known.
      steps: how many steps it is for; `bridgejax.training.step_block` says what parts and given are then.
    """

    parts: dict[str, jax.Array]
    given: Batch
    steps: int = 1


def started(make: Callable[[], Iterator[T]]) -> Iterator[T]:
    """Returns the stream that `make` gives, made on a thread from now on, up to its first item: a pipeline takes time to start.

    What goes wrong there is raised where the stream is first asked for an item.
    """

    def begin() -> Iterator[T]:
        stream = make()
        return itertools.chain(list(itertools.islice(stream, 1)), stream)

    pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    begun = pool.submit(begin)
    pool.shutdown(wait=False)

    def stream() -> Iterator[T]:
        yield from begun.result()

    return stream()


def peeked(stream: Iterator[T]) -> tuple[T, Iterator[T]]:
    """Returns a stream's first item, and the stream with it."""
    first = next(stream)
    return first, itertools.chain([first], stream)


class Feed(Generic[T]):
    """Gives a step its batches and, while the step runs, puts the next ones on the device.

    A step is sent to the device without waiting for it, so one thread does both: `next` hands over what is there, and `fill`,
    called after the step was sent, has the following batches made and transferred meanwhile.
    """

    def __init__(self, batches: Iterator[T], place: Callable[[T], PlacedBatch], ahead: int = AHEAD) -> None:
        """Makes the feed of a finite stream; nothing is drawn yet."""
        self._batches, self._place, self._ahead = batches, place, ahead
        self._ready: collections.deque[PlacedBatch] = collections.deque()
        self._stalled = 0.0

    def __iter__(self) -> Iterator[PlacedBatch]:
        return self

    def __next__(self) -> PlacedBatch:
        if not self._ready:
            self._draw(1)
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def fill(self, result: jax.Array | None = None) -> None:
        """Draws and places batches until as many as planned are ahead, or the stream ends.

        Args:
          result: of the step just sent. While it is not ready the device is busy, and drawing batches costs nothing.
        """
        self._draw(self._ahead, result)

    def _draw(self, wanted: int, result: jax.Array | None = None) -> None:
        while len(self._ready) < wanted:
            began = time.monotonic()
            batch = next(self._batches, None)
            if batch is not None:
                self._ready.append(self._place(batch))
            if result is None or result.is_ready():  # type: ignore[attr-defined]  # not in jax.Array's stub
                self._stalled += time.monotonic() - began
            if batch is None:
                return

    def stall(self) -> float:
        """Returns the seconds, since it was last asked, in which the device may have waited for batches.

        Batches that came before the device had finished its step are left out. Of the others, the whole wait counts, so the
        device waited that long at most.
        """
        stalled, self._stalled = self._stalled, 0.0
        return stalled
