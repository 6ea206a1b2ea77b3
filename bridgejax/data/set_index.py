"""Where the images of a synthetic set lie, as its sidecars have it: no record is read to find one.

Each sidecar holds the stretch of every image's PNG in its shard's record file, as int64 [n, 2] in little-endian base64. The
images of a set are in the order (index, class), so that a position says which image it is.
"""

from __future__ import annotations

import base64
import concurrent.futures
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bridgejax.data.records import Span, bytes_span, feature_spans
from bridgejax.files import Place

SIDECARS = "sidecars"
SPANS_KEY = "images"
_THREADS = 16  # reads of a network's storage that wait at the same time


def sidecar_path(directory: Place, shard: int) -> Place:
    return directory / SIDECARS / f"{shard:05d}.json"


def image_span(record: bytes, start: int) -> Span:
    """Returns where the PNG of a record lies in its file, whose frame's payload starts at `start`."""
    first, end = bytes_span(record, feature_spans(record, (0, len(record)))["image"])
    return start + first, start + end


def pack_spans(spans: Sequence[Span]) -> str:
    """Returns the stretches of a shard's images as a sidecar holds them."""
    return base64.b64encode(np.asarray(spans, "<i8").tobytes()).decode()


def read_spans(directory: Place, shard_lengths: Sequence[int]) -> npt.NDArray[np.int64] | None:
    """Returns where every image of a set lies, from the sidecars alone.

    Args:
      directory: the set's folder.
      shard_lengths: images per shard.

    Returns:
      int64 [n, 3] in set order: the shard, the first byte of the PNG in its record file, and the one after the last. None
      where a sidecar is missing, broken, or of a version that kept no index.
    """

    def one(shard: int) -> npt.NDArray[np.int64] | None:
        try:
            packed = json.loads(sidecar_path(directory, shard).read_bytes())[SPANS_KEY]
            spans = np.frombuffer(base64.b64decode(packed), "<i8").reshape(-1, 2)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return spans if len(spans) == shard_lengths[shard] else None

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(one, range(len(shard_lengths))))
    if any(part is None for part in parts):
        return None
    places = np.empty((sum(shard_lengths), 3), np.int64)
    places[:, 0] = np.repeat(np.arange(len(parts)), shard_lengths)
    np.concatenate([part for part in parts if part is not None], out=places[:, 1:])
    return places
