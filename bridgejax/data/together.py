"""One stream for several runs, to train and to judge by: each gets the batches that it would have had alone."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bridgejax.data.examples import Examples
from bridgejax.data.pixels import MEMORY_BYTES, Pixels
from bridgejax.data.sampling import Sampler
from bridgejax.data.streams import (
    EVAL_CROP,
    Batch,
    cropped,
    eval_batches,
    middle_windows,
    padded,
    random_windows,
    train_batches,
    transformed,
)
from bridgejax.data.tensorflow import import_tensorflow


def train_batches_together(
    runs: Sequence[Sequence[Examples]],
    *,
    weights: Sequence[float] | None = None,
    batch_size: int,
    image_size: int,
    seeds: Sequence[int],
    start_step: int = 0,
    augment: bool = True,
    memory_bytes: int = MEMORY_BYTES,
) -> list[Iterator[Batch]]:
    """Returns for each run the stream that `train_batches` gives for its sources and seed, bit for bit.

    Sources that runs share (the same `Examples`) are held once, and one pipeline makes the batches of all: one graph, one
    iteration a step. A batch is made when the first run asks for it and kept for the others, so they should go on in step.
    Where the images of all do not fit in memory, each run has a pipeline of its own.

    Args:
      runs: each run's sources, as `train_batches` takes them.
      seeds: each run's seed.
      weights, batch_size, image_size, start_step, augment, memory_bytes: as `train_batches` takes them, for every run.

    Raises:
      UserError: as `train_batches`.
    """
    settings: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size, "augment": augment}
    sources = list({id(source.images): source for run in runs for source in run}.values())
    pixels = Pixels(sources, 2 * image_size, memory_bytes) if len(runs) > 1 else None
    if pixels is None or not pixels.in_memory:
        return [
            train_batches(run, weights=weights, seed=seed, start_step=start_step, memory_bytes=memory_bytes, **settings)
            for run, seed in zip(runs, seeds, strict=True)
        ]
    tf = import_tensorflow()
    starts = dict(zip((id(source.images) for source in sources), np.cumsum([0, *map(len, sources)]), strict=False))
    samplers = [
        Sampler([len(source) for source in run], weights, seed, batch_size) for run, seed in zip(runs, seeds, strict=True)
    ]
    # Each run's positions in its own sources → positions in the table of all.
    tables = [
        np.concatenate([np.arange(len(source), dtype=np.int64) + starts[id(source.images)] for source in run]) for run in runs
    ]
    bases = np.cumsum([0, *map(len, tables)])
    table = tf.constant(np.concatenate(tables))

    def plan(step: Any) -> tuple[Any, Any, Any]:
        planned = [sampler(step) for sampler in samplers]
        own = tf.concat([positions for positions, _ in planned], 0)
        shifted = tf.concat([positions + int(base) for (positions, _), base in zip(planned, bases, strict=False)], 0)
        return own, tf.gather(table, shifted), tf.concat([draws for _, draws in planned], 0)

    endless = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    windows = random_windows() if augment else middle_windows(EVAL_CROP)
    stream = transformed(tf, endless, plan, pixels, windows, image_size, batch_size * len(runs))
    return _Shared(stream, runs, batch_size).iterators()


def eval_batches_together(
    parts: Sequence[Examples],
    *,
    batch_size: int,
    image_size: int,
    crop: float = EVAL_CROP,
    memory_bytes: int = MEMORY_BYTES,
) -> list[list[Batch]]:
    """Returns for each part the batches that `eval_batches` gives, bit for bit, out of one pipeline.

    Parts of the same images and labels share their batches. Where the images of all do not fit in memory, each part has a
    pipeline of its own.

    Raises:
      UserError: as `eval_batches`.
    """
    keys = [(part.ids, tuple(part.labels.tolist())) for part in parts]
    different = list(dict(zip(keys, parts, strict=True)).values())
    pixels = Pixels(different, 2 * image_size, memory_bytes) if len(different) > 1 else None
    if pixels is None or not pixels.in_memory or not 0 < crop <= 1:
        settings: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size, "crop": crop}
        made = [list(eval_batches(part, **settings, memory_bytes=memory_bytes)) for part in different]
    else:
        count = sum(map(len, different))
        images = np.concatenate([each for _, each in cropped(import_tensorflow(), pixels, count, batch_size, image_size, crop)])
        starts = np.cumsum([0, *map(len, different)])
        made = []
        for part, first in zip(different, starts, strict=False):
            rows = [slice(k, min(k + batch_size, len(part))) for k in range(0, len(part), batch_size)]
            own = images[first : first + len(part)]
            made.append([padded(own[each], part.labels[each], batch_size) for each in rows])
    by_key = dict(zip(dict.fromkeys(keys), made, strict=True))
    return [by_key[key] for key in keys]


class _Shared:
    """Deals the rows of joint batches out to the runs."""

    def __init__(
        self, stream: Iterator[tuple[np.ndarray, np.ndarray]], runs: Sequence[Sequence[Examples]], batch_size: int
    ) -> None:
        self._stream, self._batch_size = stream, batch_size
        self._labels = [np.concatenate([source.labels for source in run]).astype(np.int32) for run in runs]
        self._sources = [np.repeat(np.arange(len(run), dtype=np.int32), [len(each) for each in run]) for run in runs]
        self._waiting: dict[int, collections.deque[Batch]] = {number: collections.deque() for number in range(len(runs))}

    def iterators(self) -> list[Iterator[Batch]]:
        return [self._deal(number) for number in range(len(self._labels))]

    def _deal(self, number: int) -> Iterator[Batch]:
        try:
            while True:
                if not self._waiting[number]:
                    self._draw()
                yield self._waiting[number].popleft()
        finally:
            del self._waiting[number]  # nothing is kept for a run that ended

    def _draw(self) -> None:
        positions, images = next(self._stream)
        size = self._batch_size
        for number, waiting in self._waiting.items():
            part = slice(number * size, (number + 1) * size)
            own = positions[part]
            waiting.append(
                {
                    "image": images[part],
                    "label": self._labels[number][own],
                    "mask": np.ones(size, np.float32),
                    "source": self._sources[number][own],
                }
            )
