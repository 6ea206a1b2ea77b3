"""Decoded images for the streams: all in memory where they fit, else decoded when asked for."""

from __future__ import annotations

import concurrent.futures
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bridgejax.data.examples import Examples
from bridgejax.data.images import BadImage, decode_rgb
from bridgejax.data.tensorflow import import_tensorflow
from bridgejax.errors import UserError

if TYPE_CHECKING:
    from tensorflow import Tensor

MEMORY_BYTES = 1 << 30  # decoded pixels held per process
_CACHED_SOURCES = 32  # sources whose pixels stay cached for the next stream: those of several seeds that train at once

_cache: OrderedDict[tuple[int, int | None], tuple[Sequence[bytes], list[npt.NDArray[np.uint8]]]] = OrderedDict()


def decode_example(examples: Examples, position: int, shorter_side: int | None = None) -> npt.NDArray[np.uint8]:
    """Returns one image, uint8 [h, w, 3], as `decode_rgb` does, its shorter side at most `examples.side` too.

    Raises:
      UserError: it cannot be decoded.
    """
    try:
        return decode_rgb(examples.images[position], _least(shorter_side, examples.side))
    except BadImage as error:
        raise UserError(
            f"image {examples.ids[position]!r} could not be decoded: it {error}; convert, replace or remove it."
        ) from error


def _least(*sides: int | None) -> int | None:
    return min((side for side in sides if side is not None), default=None)


def _decode_all(examples: Examples, shorter_side: int, budget: int) -> list[npt.NDArray[np.uint8]] | None:
    """Returns all images decoded, None if they take more than `budget` bytes."""
    key = (id(examples.images), _least(shorter_side, examples.side))
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key][1]
    # A sample shows whether all can fit, before any work is wasted.
    probe = range(0, len(examples), max(1, len(examples) // 16))
    sizes = [decode_example(examples, i, shorter_side).nbytes for i in probe]
    if len(examples) * float(np.mean(sizes)) > 1.5 * budget:
        return None
    images: list[npt.NDArray[np.uint8]] = []
    total = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for image in pool.map(lambda i: decode_example(examples, i, shorter_side), range(len(examples))):
            total += image.nbytes
            if total > budget:
                pool.shutdown(wait=False, cancel_futures=True)
                return None
            images.append(image)
    _cache[key] = (examples.images, images)  # holding the encoded images keeps their id from being used again
    while len(_cache) > _CACHED_SOURCES or sum(i.nbytes for _, cached in _cache.values() for i in cached) > 2 * MEMORY_BYTES:
        _cache.popitem(last=False)
    return images


class Pixels:
    """The decoded images of a concatenation of sources.

    Args:
      sources: the examples.
      shorter_side: images are shrunk so that their shorter side is at most so many pixels.
      memory_bytes: hold all decoded images if they take no more; else each is decoded when asked for.

    Attributes:
      in_memory: whether `table` can be used; else use `decode`.
    """

    def __init__(self, sources: Sequence[Examples], shorter_side: int, memory_bytes: int = MEMORY_BYTES):
        self._sources = list(sources)
        self._shorter_side = shorter_side
        self._bounds = np.cumsum([len(source) for source in sources])
        self._images: list[npt.NDArray[np.uint8]] | None = []
        for source in self._sources:
            part = _decode_all(source, shorter_side, memory_bytes) if len(source) else []
            if part is None:
                self._images = None
                break
            self._images = self._images + part
        if self._images is not None and sum(image.nbytes for image in self._images) > memory_bytes:
            self._images = None

    @property
    def in_memory(self) -> bool:
        return self._images is not None

    def decode(self, position: int) -> npt.NDArray[np.uint8]:
        """Returns the image at a position, uint8 [h, w, 3]."""
        source = int(np.searchsorted(self._bounds, position, side="right"))
        examples = self._sources[source]
        return decode_example(examples, position - int(self._bounds[source] - len(examples)), self._shorter_side)

    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the images as TensorFlow takes them, in one flat tensor without padding.

        Returns:
          All pixels, uint8 [·]; where each image starts in them, int64 [n]; its height and width, int32 [n, 2].
        """
        tf = import_tensorflow()
        images = self._images or []
        shapes = np.array([image.shape[:2] for image in images], np.int32).reshape(-1, 2)
        ends = np.cumsum(shapes.astype(np.int64).prod(axis=1) * 3)
        flat = np.concatenate([image.reshape(-1) for image in images])
        return tf.constant(flat), tf.constant(np.concatenate([[0], ends[:-1]])), tf.constant(shapes)
