"""tf.data streams: uint8 batches for the training and the evaluation step."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bridgejax.data.examples import Examples
from bridgejax.data.pixels import MEMORY_BYTES, Pixels
from bridgejax.data.sampling import DRAWS, Sampler
from bridgejax.data.tensorflow import import_tensorflow
from bridgejax.errors import UserError

Batch = dict[str, np.ndarray]
EVAL_CROP = 0.875
SCALE, RATIO = (0.35, 1.0), (3 / 4, 4 / 3)  # of random crops: share of the area, width over height


def train_batches(
    sources: Sequence[Examples],
    *,
    weights: Sequence[float] | None = None,
    batch_size: int,
    image_size: int,
    seed: int,
    start_step: int = 0,
    augment: bool = True,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
    flip: bool = True,
    memory_bytes: int = MEMORY_BYTES,
    rows: slice | None = None,
) -> Iterator[Batch]:
    """Yields training batches without end. Batch k depends on (sources, seed, k) alone.

    Args:
      sources: where images come from.
      weights: each source's share of the images (1 - s and s for a synthetic share s); None draws from the union of all,
        every example equally often.
      batch_size: images per batch.
      image_size: side in pixels.
      seed: of order and augmentation.
      start_step: number of the first batch: a run that goes on at step k sees what it would have seen.
      augment: random resized crop and flip; else resize and centre crop as in evaluation.
      scale: range of the crop's area, as a share of the image's.
      ratio: range of the crop's width over its height (log-uniform). A side longer than the image's is cut to it.
      flip: mirror half of the images.
      memory_bytes: keep decoded images in memory if they take no more.
      rows: which rows of each batch to make and yield, for one process of several; None means all b.

    Yields:
      {"image": uint8 [b, s, s, 3], "label": int32 [b], "mask": float32 [b] of ones, "source": int32 [b], which of the sources
      each image comes from}.

    Raises:
      UserError: there are no images, the shares do not fit, or an image cannot be decoded.
    """
    _check_sizes(batch_size, image_size)
    tf = import_tensorflow()
    whole = Sampler(tf, [len(source) for source in sources], weights, seed, batch_size)
    part = slice(*(slice(None) if rows is None else rows).indices(batch_size))

    @tf.autograph.experimental.do_not_convert
    def sampler(step: Any) -> tuple[Any, Any]:
        positions, draws = whole(step)
        return positions[part], draws[part]

    pixels = Pixels(sources, 2 * image_size, memory_bytes)
    labels = np.concatenate([source.labels for source in sources]).astype(np.int32)

    if pixels.in_memory:

        @tf.autograph.experimental.do_not_convert
        def planned(step: Any) -> tuple[Any, Any, Any]:
            positions, draws = sampler(step)
            return positions, positions, draws

        dataset = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max).map(planned).unbatch()
        batches = transformed(tf, dataset, pixels, image_size, part.stop - part.start, augment, scale, ratio, flip)
    else:
        plans = tf.function(sampler, input_signature=[tf.TensorSpec([], tf.int64)])
        steps = ([part.numpy() for part in plans(step)] for step in itertools.count(start_step))
        transform = _transform(tf, image_size, augment, scale, ratio, flip)
        batches = _from_files(tf, pixels, transform, steps)
    source = np.repeat(np.arange(len(sources), dtype=np.int32), [len(each) for each in sources])
    ones = np.ones(part.stop - part.start, np.float32)
    for positions, images in batches:
        yield {"image": images, "label": labels[positions], "mask": ones.copy(), "source": source[positions]}


def transformed(
    tf: Any,
    planned: Any,
    pixels: Pixels,
    image_size: int,
    rows: int,
    augment: bool,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
    flip: bool = True,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Returns (places, uint8 [rows, s, s, 3]) batch by batch of images that lie in memory.

    Args:
      tf: the TensorFlow module.
      planned: a dataset of one element per image: what is returned for it, its position in `pixels`, its draws.
      pixels: the images, in memory.
      image_size, augment, scale, ratio, flip: as `train_batches` takes them.
      rows: images per batch.
    """
    lookup, transform = pixels.lookup(), _transform(tf, image_size, augment, scale, ratio, flip)
    dataset = planned.map(
        lambda place, position, draws: (place, transform(lookup(position), draws)),
        num_parallel_calls=_threads(),
        deterministic=True,
    )
    dataset = dataset.batch(rows, drop_remainder=True).prefetch(2).with_options(_options(tf))
    return dataset.as_numpy_iterator()


def _transform(
    tf: Any, image_size: int, augment: bool, scale: tuple[float, float], ratio: tuple[float, float], flip: bool
) -> Callable[[Any, Any], Any]:
    def transform(image: Any, draws: Any) -> Any:
        if augment:
            return _random_crop(tf, image, draws, image_size, scale, ratio, flip)
        return _centre_crop(tf, image, image_size, EVAL_CROP)

    return transform


def eval_batches(
    examples: Examples,
    *,
    batch_size: int,
    image_size: int,
    crop: float = EVAL_CROP,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[Batch]:
    """Yields every example once, in order, in batches of equal length.

    An image is resized so that its shorter side is `image_size / crop` and cut to its middle square of `image_size`.

    Args:
      examples: the images.
      batch_size: images per batch; the last is filled up with black images of label 0 and mask 0.
      image_size: side in pixels.
      crop: share of the shorter side that is kept, in (0, 1].
      memory_bytes: keep decoded images in memory if they take no more.

    Yields:
      {"image": uint8 [b, s, s, 3], "label": int32 [b], "mask": float32 [b], 1 for an example}.

    Raises:
      UserError: a size is not positive, `crop` is out of range, or an image cannot be decoded.
    """
    _check_sizes(batch_size, image_size)
    if not 0 < crop <= 1:
        raise UserError(f"crop={crop} is not in (0, 1]; give the share of the shorter side that is kept.")
    if len(examples) == 0:
        return
    tf = import_tensorflow()
    pixels = Pixels([examples], 2 * image_size, memory_bytes)
    if pixels.in_memory:
        batches = cropped(tf, pixels, len(examples), batch_size, image_size, crop)
    else:
        everything = np.arange(len(examples))
        parts = (everything[start : start + batch_size] for start in range(0, len(examples), batch_size))
        steps = ([part, np.zeros((len(part), DRAWS), np.float32)] for part in parts)
        batches = _from_files(tf, pixels, lambda image, draws: _centre_crop(tf, image, image_size, crop), steps)
    for positions, images in batches:
        yield padded(images, examples.labels[positions], batch_size)


def cropped(
    tf: Any, pixels: Pixels, count: int, batch_size: int, image_size: int, crop: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Returns (positions, uint8 [≤ batch_size, s, s, 3]) of the first `count` images, which lie in memory, in order."""
    lookup = pixels.lookup()
    dataset = tf.data.Dataset.range(count).map(
        lambda position: (position, _centre_crop(tf, lookup(position), image_size, crop)),
        num_parallel_calls=_threads(),
        deterministic=True,
    )
    dataset = dataset.batch(batch_size).prefetch(2).with_options(_options(tf))
    return dataset.as_numpy_iterator()


def padded(images: np.ndarray, labels: np.ndarray, batch_size: int) -> Batch:
    """Returns an evaluation batch, filled up with black images of label 0 and mask 0."""
    extra = batch_size - len(images)
    return {
        "image": np.pad(images, ((0, extra), (0, 0), (0, 0), (0, 0))),
        "label": np.pad(labels.astype(np.int32), (0, extra)),
        "mask": np.pad(np.ones(len(images), np.float32), (0, extra)),
    }


def _check_sizes(batch_size: int, image_size: int) -> None:
    for key, value in (("batch_size", batch_size), ("image_size", image_size)):
        if value < 1:
            raise UserError(f"{key}={value} is not positive; give a whole number of at least 1.")


def _threads() -> int:
    return max(1, os.cpu_count() or 1)


def _options(tf: Any) -> Any:
    options = tf.data.Options()
    options.threading.private_threadpool_size = _threads()
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = True
    options.autotune.enabled = False
    return options


def _from_files(
    tf: Any, pixels: Pixels, transform: Callable[[Any, Any], Any], steps: Iterator[Sequence[Any]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Decodes and transforms images on threads, two batches ahead of the one that is used.

    No Python runs inside TensorFlow's own threads: a stream that is dropped half-way must not hold up the end of the program.
    """
    signature = [tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([DRAWS], tf.float32)]
    compiled = tf.function(transform, input_signature=signature)

    def load(position: int, draws: np.ndarray) -> np.ndarray:
        return compiled(tf.constant(pixels.decode(position)), tf.constant(draws)).numpy()

    with concurrent.futures.ThreadPoolExecutor(max_workers=_threads()) as pool:
        ahead: collections.deque[tuple[np.ndarray, list[concurrent.futures.Future[np.ndarray]]]] = collections.deque()
        for positions, draws in steps:
            ahead.append((positions, [pool.submit(load, int(p), d) for p, d in zip(positions, draws, strict=True)]))
            if len(ahead) > 2:
                first, futures = ahead.popleft()
                yield first, np.stack([future.result() for future in futures])
        for first, futures in ahead:
            yield first, np.stack([future.result() for future in futures])


def _to_size(tf: Any, image: Any, size: int) -> Any:
    """Resizes a square or a stretched crop, with antialiasing, to uint8 [size, size, 3]."""
    resized = tf.image.resize(image, [size, size], method="bilinear", antialias=True)
    resized = tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)
    resized.set_shape([size, size, 3])
    return resized


def _random_crop(
    tf: Any, image: Any, draws: Any, size: int, scale: tuple[float, float], ratio: tuple[float, float], flip: bool
) -> Any:
    """Random resized crop (Szegedy et al. 2014, "Going deeper with convolutions", section 6) and mirroring."""
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    area = shape[0] * shape[1] * (scale[0] + draws[0] * (scale[1] - scale[0]))
    log_ratio = np.log(ratio[0]) + draws[1] * (np.log(ratio[1]) - np.log(ratio[0]))
    sides = tf.stack([tf.sqrt(area / tf.exp(log_ratio)), tf.sqrt(area * tf.exp(log_ratio))])
    sides = tf.clip_by_value(tf.round(sides), 1.0, shape)
    corner = tf.minimum(tf.floor(draws[2:4] * (shape - sides + 1.0)), shape - sides)
    begin = tf.concat([tf.cast(corner, tf.int32), [0]], 0)
    extent = tf.concat([tf.cast(sides, tf.int32), [3]], 0)
    cut = _to_size(tf, tf.slice(image, begin, extent), size)
    if not flip:
        return cut
    return tf.cond(draws[4] < 0.5, lambda: tf.reverse(cut, [1]), lambda: cut)


def _centre_crop(tf: Any, image: Any, size: int, crop: float) -> Any:
    """Cuts the middle square of `crop` times the shorter side and resizes it: resize and centre crop in one."""
    shape = tf.shape(image)[:2]
    side = tf.cast(tf.round(tf.cast(tf.reduce_min(shape), tf.float32) * crop), tf.int32)
    side = tf.maximum(side, 1)
    begin = tf.concat([(shape - side) // 2, [0]], 0)
    return _to_size(tf, tf.slice(image, begin, tf.stack([side, side, 3])), size)
