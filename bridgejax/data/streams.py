"""tf.data streams: uint8 batches for the training and the evaluation step."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from bridgejax.data.examples import Batch, Examples
from bridgejax.data.pixels import MEMORY_BYTES, Pixels
from bridgejax.data.sampling import DRAWS, Sampler
from bridgejax.data.tensorflow import import_tensorflow
from bridgejax.errors import UserError

if TYPE_CHECKING:
    from tensorflow import Tensor
    from tensorflow.data import Options

EVAL_CROP = 0.875
ENDLESS = np.iinfo(np.int64).max  # the end of a range of steps that never ends
SCALE, RATIO = (0.35, 1.0), (3 / 4, 4 / 3)  # of random crops: share of the area, width over height
# The most images that one graph crops, so that it is built quickly, and their pixels, so that its buffers stay in the caches.
_PART, _PART_PIXELS = 16, 1 << 14
_MANY = 64  # batches whose places are worked out at once
_AHEAD = 16  # times so many at most, before they are asked for

# (TensorFlow's module, shapes int32 [n, 2], draws float32 [n, DRAWS]) → corners and sides, int32 [n, 2], mirrored, bool [n]
Windows: TypeAlias = "Callable[[ModuleType, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]"
PixelBatches = Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]  # positions [b], images [b, s, s, 3]


def train_batches(
    sources: Sequence[Examples],
    *,
    weights: Sequence[float] | None = None,
    batch_size: int,
    image_size: int,
    seed: int,
    start_step: int = 0,
    augment: bool = True,
    crop: float = EVAL_CROP,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
    flip: bool = True,
    memory_bytes: int = MEMORY_BYTES,
    rows: slice | None = None,
    view: int = 0,
    repeats: int = 1,
) -> Iterator[Batch]:
    """Yields training batches without end. Batch k depends on (sources, seed, k) alone.

    Args:
      sources: where images come from.
      weights: each source's share of the images (1 - s and s for a synthetic share s); None draws from the union of all,
        every example equally often.
      batch_size: images per batch.
      image_size: side in pixels.
      seed: of order and augmentation.
      start_step: number of the first batch: a run that resumes at step k sees what it would have seen.
      augment: random resized crop and flip; else resize and centre crop as in evaluation.
      crop: of that centre crop, as `eval_batches` takes it.
      scale: range of the crop's area, as a share of the image's.
      ratio: range of the crop's width over its height (log-uniform). A side longer than the image's is cut to it.
      flip: mirror half of the images.
      memory_bytes: hold the decoded images in memory if they take no more.
      rows: which rows of each batch to make and yield, for one process of several; None means all b.
      view: another number augments the same images otherwise.
      repeats: rows in a row that show an image, each augmented by itself (repeated augmentation, Hoffer et al. 2020,
        arXiv 1901.09335); the rows of an image may lie in two batches if they do not divide these.

    Yields:
      {"image": uint8 [b, s, s, 3], "label": int32 [b], "source": int32 [b], which of the sources each image comes from}.

    Raises:
      UserError: there are no images, the shares do not fit, or an image cannot be decoded.
    """
    _check_sizes(batch_size, image_size)
    tf = import_tensorflow()
    sampler = Sampler([len(source) for source in sources], weights, seed, batch_size, view, repeats)
    part = slice(*(slice(None) if rows is None else rows).indices(batch_size))

    def own_rows(step: Tensor) -> tuple[Tensor, Tensor]:
        positions, draws = sampler(step)
        return positions[part], draws[part]

    pixels = Pixels(sources, 2 * image_size, memory_bytes)
    labels = np.concatenate([source.labels for source in sources]).astype(np.int32)
    windows = random_windows(scale, ratio, flip) if augment else middle_windows(crop)
    if pixels.in_memory:

        def plan(step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            positions, draws = own_rows(step)
            return positions, positions, draws

        batches = transformed(tf, range(start_step, ENDLESS), plan, pixels, windows, image_size, part.stop - part.start)
    else:
        plans = tf.function(own_rows, input_signature=[tf.TensorSpec([], tf.int64)], autograph=False)
        steps = ((positions.numpy(), draws.numpy()) for positions, draws in map(plans, itertools.count(start_step)))
        batches = _from_files(tf, pixels, windows, image_size, steps)
    source = np.repeat(np.arange(len(sources), dtype=np.int32), [len(each) for each in sources])
    for positions, images in batches:
        yield {"image": images, "label": labels[positions], "source": source[positions]}


def train_positions(
    sizes: Sequence[int],
    *,
    weights: Sequence[float] | None,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    end_step: int | None = None,
) -> Iterator[npt.NDArray[np.int64]]:
    """Returns which images `train_batches` takes, int64 [b] for each batch: positions in sources of these sizes, concatenated.

    A thread works ahead from now on, far ahead where it is known at which step the caller stops, `end_step`. What goes wrong
    there is raised where the first positions are asked for.

    Raises:
      UserError: as `train_batches`.
    """

    @functools.cache
    def sampler() -> Sampler:
        # Places of the stream are numbered through, so that one large batch holds the places of many.
        return Sampler(sizes, weights, seed, batch_size * _MANY)

    def positions(block: int) -> npt.NDArray[np.int64]:
        placed: npt.NDArray[np.int64] = sampler()(import_tensorflow().constant(block, "int64"))[0].numpy()
        return placed.reshape(_MANY, batch_size)[max(start_step - block * _MANY, 0) :]

    blocks = iter(range(start_step // _MANY, ENDLESS if end_step is None else -(-end_step // _MANY)))
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    started = (pool.submit(positions, block) for block in blocks)
    ahead = collections.deque(itertools.islice(started, 1 if end_step is None else _AHEAD))

    def stream() -> Iterator[npt.NDArray[np.int64]]:
        try:
            while ahead:
                ready = ahead.popleft().result()
                ahead.extend(itertools.islice(started, 1))
                yield from ready
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    return stream()


def transformed(
    tf: ModuleType,
    steps: range,
    plan: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    pixels: Pixels,
    windows: Windows,
    image_size: int,
    rows: int,
) -> PixelBatches:
    """Yields (places, uint8 [rows, s, s, 3]) batch by batch of images that lie in memory.

    Args:
      tf: the TensorFlow module.
      steps: one number per batch.
      plan: a function from that number, int64 [], to the places that are yielded for the batch's images, int64 [rows], their
        positions in `pixels`, int64 [rows], and their draws, float32 [rows, DRAWS].
      pixels: the images, in memory.
      windows: what is cut out of them, of `random_windows` or `middle_windows`.
      image_size: side in pixels, s.
      rows: images per batch.
    """
    table = pixels.table()
    part = max(k for k in range(1, _PART + 1) if rows % k == 0 and (k == 1 or k * image_size**2 <= _PART_PIXELS))
    geometry, transform = _geometry(windows, rows // part), _transform(part, image_size)

    def prepare(step: Tensor) -> tuple[Tensor, ...]:
        places, positions, draws = plan(step)
        return tf.reshape(places, [rows // part, part]), *geometry(*table[1:], positions, draws)

    def transformed_part(places: Tensor, *geometry_of_part: Tensor) -> tuple[Tensor, Tensor]:
        return places, transform(table[0], *geometry_of_part)

    # All geometry is worked out for a batch at once; an image alone costs its slices and its resizing.
    plain = tf.autograph.experimental.do_not_convert
    dataset = tf.data.Dataset.range(steps.start, steps.stop, steps.step).map(plain(prepare)).unbatch()
    dataset = dataset.map(plain(transformed_part), num_parallel_calls=_threads(), deterministic=True)
    dataset = dataset.batch(rows // part).prefetch(2).with_options(_options(tf))
    for places, images in dataset.as_numpy_iterator():
        yield places.reshape(rows), images.reshape(rows, *images.shape[2:])


@functools.cache
def _geometry(windows: Windows, parts: int) -> Callable[..., tuple[Tensor, ...]]:
    """Returns a graph from a `Pixels.table`, positions and draws to what `_transform` takes, cut in so many parts.

    Building a graph takes longer than many streams run: streams of one kind share it.
    """
    tf = import_tensorflow()

    def geometry(starts: Tensor, shapes: Tensor, positions: Tensor, draws: Tensor) -> tuple[Tensor, ...]:
        shape = tf.gather(shapes, positions)
        corners, sides, mirrored = windows(tf, shape, draws)
        (top, left), (height, width) = (tf.unstack(tf.cast(x, tf.int64), axis=1) for x in (corners, sides))
        full_width = tf.cast(shape[:, 1], tf.int64)
        zero, one, three = (tf.zeros_like(top) + number for number in (0, 1, 3))
        slices = (
            [tf.gather(starts, positions) + top * full_width * 3],  # the window's rows in the flat tensor: where from,
            [height * full_width * 3],  # how many numbers,
            [one, height, full_width, three],  # and their shape;
            [zero, zero, left, zero],  # in these rows, the window's columns
            [one, height, width, three],
        )
        columns = (mirrored, sides, *(tf.stack(each, 1) for each in slices))
        return tuple(tf.reshape(column, [parts, -1, *column.shape[1:]]) for column in columns)

    graph: Callable[..., tuple[Tensor, ...]] = tf.function(geometry, autograph=False)
    return graph


@functools.cache
def _transform(part: int, image_size: int) -> Callable[..., Tensor]:
    """Returns a graph from the flat tensor of all images and the geometry of some to these, uint8 [part, s, s, 3]."""
    tf = import_tensorflow()

    def transform(flat: Tensor, mirrored: Tensor, sides: Tensor, *slices: Tensor) -> Tensor:
        images = []
        for side, first, count, shape, begin, size in zip(*(tf.unstack(x, part) for x in (sides, *slices)), strict=True):
            window = tf.slice(tf.reshape(tf.slice(flat, first, count), shape), begin, size)
            images.append(_resize(tf, window, side, image_size))
        return _finish(tf, tf.concat(images, 0), mirrored)

    graph: Callable[..., Tensor] = tf.function(transform, autograph=False)
    return graph


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
      memory_bytes: hold the decoded images in memory if they take no more.

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
        starts = range(0, len(examples), batch_size)
        parts = (np.arange(start, min(start + batch_size, len(examples))) for start in starts)
        steps = ((part, np.zeros((len(part), DRAWS), np.float32)) for part in parts)
        batches = _from_files(tf, pixels, middle_windows(crop), image_size, steps)
    for positions, images in batches:
        yield padded(images, examples.labels[positions], batch_size)


def cropped(tf: ModuleType, pixels: Pixels, count: int, batch_size: int, image_size: int, crop: float) -> PixelBatches:
    """Yields (positions, uint8 [≤ batch_size, s, s, 3]) of the first `count` images, which lie in memory, in order."""

    def plan(first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        positions = tf.minimum(first + tf.range(batch_size, dtype=tf.int64), count - 1)  # the end is filled up
        return positions, positions, tf.zeros([batch_size, DRAWS])

    firsts = range(0, count, batch_size)
    batches = transformed(tf, firsts, plan, pixels, middle_windows(crop), image_size, batch_size)
    for first, (positions, images) in zip(firsts, batches, strict=True):
        yield positions[: count - first], images[: count - first]


def padded(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], batch_size: int) -> Batch:
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


def _options(tf: ModuleType) -> Options:
    options = tf.data.Options()
    options.threading.private_threadpool_size = _threads()
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = True
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False  # they take longer than they save
    return options


def _from_files(
    tf: ModuleType,
    pixels: Pixels,
    windows: Windows,
    image_size: int,
    steps: Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]],
) -> PixelBatches:
    """Decodes and transforms images on threads, two batches ahead of the one in use.

    No Python runs inside TensorFlow's own threads: a stream that is dropped half-way must not delay the end of the program.
    """

    def transform(image: Tensor, draws: Tensor) -> Tensor:
        corners, sides, mirrored = windows(tf, tf.shape(image)[None, :2], draws[None])
        window = tf.slice(image, tf.concat([corners[0], [0]], 0), tf.concat([sides[0], [3]], 0))
        return _finish(tf, _resize(tf, window[None], sides[0], image_size), mirrored)[0]

    signature = [tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([DRAWS], tf.float32)]
    compiled = tf.function(transform, input_signature=signature, autograph=False)

    def load(position: int, draws: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        image: npt.NDArray[np.uint8] = compiled(tf.constant(pixels.decode(position)), tf.constant(draws)).numpy()
        return image

    with concurrent.futures.ThreadPoolExecutor(max_workers=_threads()) as pool:
        ahead: collections.deque[tuple[npt.NDArray[np.int64], list[concurrent.futures.Future[npt.NDArray[np.uint8]]]]]
        ahead = collections.deque()
        for positions, draws in steps:
            ahead.append((positions, [pool.submit(load, int(p), d) for p, d in zip(positions, draws, strict=True)]))
            if len(ahead) > 2:
                first, futures = ahead.popleft()
                yield first, np.stack([future.result() for future in futures])
        for first, futures in ahead:
            yield first, np.stack([future.result() for future in futures])


def _resize(tf: ModuleType, image: Tensor, sides: Tensor, size: int) -> Tensor:
    """Returns uint8 [1, h, w, 3] of sides [h, w] as float32 [1, size, size, 3], bilinear with antialiasing.

    The operation in which `tf.image.resize` ends: around it that function spends as much again on shapes.
    """
    resized = tf.raw_ops.ScaleAndTranslate(
        images=image,
        size=[size, size],
        scale=tf.constant(size, tf.float32) / tf.cast(sides, tf.float32),
        translation=[0.0, 0.0],
        kernel_type="triangle",
        antialias=True,
    )
    return tf.ensure_shape(resized, [1, size, size, 3])


def _finish(tf: ModuleType, images: Tensor, mirrored: Tensor) -> Tensor:
    """Returns resized images, float32 [n, s, s, 3], as uint8, flipped left to right where `mirrored` [n] is true."""
    images = tf.cast(tf.round(images), tf.uint8)  # means of pixels: only rounding errors leave 0 … 255
    # `tf.reverse` is quick on three dimensions of which the last is 3, and picking whole images is quicker than `tf.where`.
    flipped = tf.reshape(tf.reverse(tf.reshape(images, [-1, *images.shape[2:]]), [1]), tf.shape(images))
    count = images.shape[0]
    return tf.gather(tf.concat([images, flipped], 0), tf.range(count) + count * tf.cast(mirrored, tf.int32))


@functools.cache
def random_windows(scale: tuple[float, float] = SCALE, ratio: tuple[float, float] = RATIO, flip: bool = True) -> Windows:
    """Returns random resized crops (Szegedy et al. 2014, "Going deeper with convolutions", section 6) and mirroring."""
    low, high = np.log(ratio)

    def windows(tf: ModuleType, shapes: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        full = tf.cast(shapes, tf.float32)
        area = full[:, 0] * full[:, 1] * (scale[0] + draws[:, 0] * (scale[1] - scale[0]))
        # In float64: TensorFlow's float32 exponential depends, in its last bit, on how many numbers it is given at once.
        stretch = tf.cast(tf.exp(tf.cast(low + draws[:, 1] * (high - low), tf.float64)), tf.float32)
        sides = tf.clip_by_value(tf.round(tf.sqrt(tf.stack([area / stretch, area * stretch], 1))), 1.0, full)
        corners = tf.minimum(tf.floor(draws[:, 2:4] * (full - sides + 1.0)), full - sides)
        return tf.cast(corners, tf.int32), tf.cast(sides, tf.int32), draws[:, 4] < (0.5 if flip else 0.0)

    return windows


@functools.cache
def middle_windows(crop: float) -> Windows:
    """Returns the middle squares of `crop` times the shorter side: resizing and a centre crop in one."""

    def windows(tf: ModuleType, shapes: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        side = tf.cast(tf.round(tf.cast(tf.reduce_min(shapes, 1, keepdims=True), tf.float32) * crop), tf.int32)
        sides = tf.tile(tf.maximum(side, 1), [1, 2])
        return (shapes - sides) // 2, sides, tf.zeros_like(draws[:, 0], tf.bool)

    return windows
