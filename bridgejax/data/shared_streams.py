"""Streams shared by several runs, for training and evaluation: each run gets the batches that it would have had alone."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bridgejax.data.examples import Batch, Examples
from bridgejax.data.pixels import MEMORY_BYTES, Pixels
from bridgejax.data.sampling import Sampler
from bridgejax.data.streams import (
    ENDLESS,
    EVAL_CROP,
    PixelBatches,
    cropped,
    eval_batches,
    middle_windows,
    padded,
    random_windows,
    train_batches,
    transformed,
)
from bridgejax.data.tensorflow import import_tensorflow

if TYPE_CHECKING:
    from tensorflow import Tensor


def shared_train_batches(
    runs: Sequence[Sequence[Examples]],
    *,
    weights: Sequence[float] | None = None,
    batch_size: int,
    image_size: int,
    seeds: Sequence[int],
    start_step: int = 0,
    augment: bool = True,
    crop: float = EVAL_CROP,
    memory_bytes: int = MEMORY_BYTES,
    repeats: int = 1,
) -> list[Iterator[Batch]]:
    """Returns for each run the stream that `train_batches` gives for its sources and seed, bit for bit.

    Sources that several runs use (the same `Examples`) are held once, and one pipeline makes the batches of all runs: one
    graph, one iteration per step. A batch is made when the first run asks for it and held until the others do, so the runs
    should advance in step. Where the images of all runs do not fit in memory, each run has a pipeline of its own.

    Args:
      runs: each run's sources, as `train_batches` takes them.
      seeds: each run's seed.
      weights, batch_size, image_size, start_step, augment, crop, memory_bytes, repeats: of every run, as `train_batches` takes
        them.

    Raises:
      UserError: as `train_batches`.
    """
    sources = list({id(source.images): source for run in runs for source in run}.values())
    pixels = Pixels(sources, 2 * image_size, memory_bytes) if len(runs) > 1 else None
    if pixels is None or not pixels.in_memory:
        return [
            train_batches(
                run,
                weights=weights,
                batch_size=batch_size,
                image_size=image_size,
                seed=seed,
                start_step=start_step,
                augment=augment,
                crop=crop,
                memory_bytes=memory_bytes,
                repeats=repeats,
            )
            for run, seed in zip(runs, seeds, strict=True)
        ]
    tf = import_tensorflow()
    starts = dict(zip((id(source.images) for source in sources), np.cumsum([0, *map(len, sources)]), strict=False))
    samplers = [
        Sampler([len(source) for source in run], weights, seed, batch_size, repeats=repeats)
        for run, seed in zip(runs, seeds, strict=True)
    ]
    # Each run's positions in its own sources → positions in the table of all.
    tables = [
        np.concatenate([np.arange(len(source), dtype=np.int64) + starts[id(source.images)] for source in run]) for run in runs
    ]
    bases = np.cumsum([0, *map(len, tables)])
    table = tf.constant(np.concatenate(tables))

    def plan(step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        planned = [sampler(step) for sampler in samplers]
        own = tf.concat([positions for positions, _ in planned], 0)
        shifted = tf.concat([positions + int(base) for (positions, _), base in zip(planned, bases, strict=False)], 0)
        return own, tf.gather(table, shifted), tf.concat([draws for _, draws in planned], 0)

    windows = random_windows() if augment else middle_windows(crop)
    stream = transformed(tf, range(start_step, ENDLESS), plan, pixels, windows, image_size, batch_size * len(runs))
    return _SharedStream(stream, runs, batch_size).iterators()


def shared_eval_batches(
    parts: Sequence[Examples], *, batch_size: int, image_size: int, crop: float = EVAL_CROP, memory_bytes: int = MEMORY_BYTES
) -> list[list[Batch]]:
    """Returns for each part the batches that `eval_batches` gives, bit for bit, out of one pipeline; errors as of that.

    Parts of the same images and labels share their batches. Where the images of all do not fit in memory, each part has a
    pipeline of its own.
    """
    keys = [(part.ids, tuple(part.labels.tolist())) for part in parts]
    distinct = list(dict(zip(keys, parts, strict=True)).values())
    pixels = Pixels(distinct, 2 * image_size, memory_bytes) if len(distinct) > 1 else None
    if pixels is None or not pixels.in_memory or not 0 < crop <= 1:
        batches = [
            list(eval_batches(part, batch_size=batch_size, image_size=image_size, crop=crop, memory_bytes=memory_bytes))
            for part in distinct
        ]
    else:
        count = sum(map(len, distinct))
        images = np.concatenate([each for _, each in cropped(import_tensorflow(), pixels, count, batch_size, image_size, crop)])
        starts = np.cumsum([0, *map(len, distinct)])
        batches = []
        for part, first in zip(distinct, starts, strict=False):
            rows = [slice(k, min(k + batch_size, len(part))) for k in range(0, len(part), batch_size)]
            own = images[first : first + len(part)]
            batches.append([padded(own[each], part.labels[each], batch_size) for each in rows])
    by_key = dict(zip(dict.fromkeys(keys), batches, strict=True))
    return [by_key[key] for key in keys]


class _SharedStream:
    """Hands each run its rows of the joint batches."""

    def __init__(self, stream: PixelBatches, runs: Sequence[Sequence[Examples]], batch_size: int) -> None:
        self._stream, self._batch_size = stream, batch_size
        self._labels = [np.concatenate([source.labels for source in run]).astype(np.int32) for run in runs]
        self._sources = [np.repeat(np.arange(len(run), dtype=np.int32), [len(each) for each in run]) for run in runs]
        self._waiting: dict[int, collections.deque[Batch]] = {number: collections.deque() for number in range(len(runs))}

    def iterators(self) -> list[Iterator[Batch]]:
        return [self._batches_of(number) for number in range(len(self._labels))]

    def _batches_of(self, number: int) -> Iterator[Batch]:
        try:
            while True:
                if not self._waiting[number]:
                    self._advance()
                yield self._waiting[number].popleft()
        finally:
            del self._waiting[number]  # nothing is held for a run that ended

    def _advance(self) -> None:
        positions, images = next(self._stream)
        size = self._batch_size
        for number, waiting in self._waiting.items():
            part = slice(number * size, (number + 1) * size)
            own = positions[part]
            waiting.append({"image": images[part], "label": self._labels[number][own], "source": self._sources[number][own]})
