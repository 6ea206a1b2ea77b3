"""Where the images of a synthetic set lie, as its sidecars have it: no record is read to find one.

Each sidecar holds the stretch of every image's PNG in its shard's record file: first byte, end, first byte, end, …, each as the
distance from the one before, uint32, little endian, base64. The images of a set are in the order (index, class), so that a
position says which image it is.
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


def pack_spans(spans: Sequence[Span] | npt.NDArray[np.int64]) -> str:
    """Returns the stretches of a shard's images as a sidecar holds them."""
    ends = np.asarray(spans, np.int64).ravel()
    return base64.b64encode(np.diff(ends, prepend=0).astype("<u4").tobytes()).decode()


def read_spans(directory: Place, shard_lengths: Sequence[int]) -> npt.NDArray[np.int64] | None:
    """Returns where every image of a set lies, from the sidecars alone; `shard_lengths` are images per shard.

    Returns:
      int64 [n, 3] in set order: the shard, the first byte of the PNG in its record file, and the one after the last. None
      where a sidecar is missing, broken, or of a version that kept no index.
    """

    places = np.empty((sum(shard_lengths), 3), np.int64)
    ends = np.cumsum(shard_lengths)

    def read(shard: int) -> bool:
        mine = places[ends[shard] - shard_lengths[shard] : ends[shard]]
        try:
            packed = json.loads(sidecar_path(directory, shard).read_bytes())[SPANS_KEY]
            mine[:, 1:] = np.cumsum(np.frombuffer(base64.b64decode(packed), "<u4"), dtype=np.int64).reshape(mine.shape[0], 2)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        mine[:, 0] = shard
        return True

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return places if all(pool.map(read, range(len(shard_lengths)))) else None
