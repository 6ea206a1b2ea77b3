"""Digests and seeds: what makes a result the same result.

An image is its identity: its noise comes from a threefry key folded from (seed, class name, index), so it does
not depend on the batch, the order of the classes, the devices or the hosts that happen to make it.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError
from bridgejax.files import StoreObject, canonical_json
from bridgejax.jax_defaults import under_jax_defaults

if TYPE_CHECKING:
    import jax


def digest(value: object) -> str:
    """Returns the SHA-256 (64 hex digits) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: str | os.PathLike[str] | StoreObject) -> str:
    """Returns the SHA-256 (64 hex digits) of a file's bytes."""
    with path.open() if isinstance(path, StoreObject) else open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # typing.BinaryIO lacks readinto


def folder_digest(folder: str | os.PathLike[str], names: Iterable[str]) -> str:
    """Returns one SHA-256 over the named files of `folder` (relative POSIX names), whatever their order."""
    root = Path(folder)
    return digest({name: file_digest(root / name) for name in sorted(names)})


def fold_word(word: str) -> int:
    """Returns the first 32 bits of the SHA-256 of `word` as an unsigned integer, for `jax.random.fold_in`."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")


def derive_seed(seed: int, *words: str | int) -> int:
    """Returns a seed in [0, 2³¹) that depends on `seed` and every word: one named stream per use."""
    return int(digest([int(seed), *words])[:8], 16) & 0x7FFFFFFF


@under_jax_defaults
def class_keys(seed: int, class_names: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Returns uint32 [classes, 2]: the threefry keys `fold_in(key(seed), digest(class_name))` of a set's classes."""
    import jax

    words = np.asarray([fold_word(name) for name in class_names], np.uint32)
    root = keys_from_seeds([seed])[0]
    return np.asarray(jax.random.key_data(jax.vmap(lambda word: jax.random.fold_in(root, word))(words)))


@under_jax_defaults
def seeds_of(keys: npt.NDArray[np.uint32], indices: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Returns the seeds of images.

    Args:
      keys: uint32 [n, 2], of each image's class, of `class_keys`.
      indices: [n], the images' numbers within their classes, each in [0, 2³²).

    Returns:
      int64 [n] in [0, 2⁶³): the 64 bits of `fold_in(key, index)`, top bit cleared. One program per n.
    """
    words = np.asarray(_folded()(keys, np.asarray(indices, np.uint32)), np.uint64).reshape(-1, 2)
    return (((words[:, 0] << np.uint64(32)) | words[:, 1]) & np.uint64(0x7FFFFFFFFFFFFFFF)).astype(np.int64)


@functools.cache
def _folded() -> Callable[[npt.NDArray[np.uint32], npt.NDArray[np.uint32]], jax.Array]:
    import jax

    def fold(key: jax.Array, index: jax.Array) -> jax.Array:
        return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), index))

    return jax.jit(jax.vmap(fold))


def image_seeds(seed: int, class_name: str, indices: Iterable[int]) -> npt.NDArray[np.int64]:
    """Returns the seeds of a class's images.

    Args:
      seed: the seed of the synthetic set.
      class_name: the class; its digest, not its position, enters.
      indices: the images' numbers within their class, each in [0, 2³²).

    Returns:
      int64 [n] in [0, 2⁶³): the 64 bits of `fold_in(fold_in(key(seed), digest(class_name)), index)`, top bit cleared.
    """
    numbers = np.asarray(list(indices), np.uint32)
    return seeds_of(np.repeat(class_keys(seed, [class_name]), len(numbers), axis=0), numbers)


@under_jax_defaults
def keys_from_seeds(seeds: Iterable[int]) -> jax.Array:
    """Returns threefry keys [n] whose 64 bits are the seeds: high word first, as `jax.random.key` has it.

    Raises:
      UserError: a seed is not an integer that fits in 64 bits.
    """
    import jax

    words = []
    for seed in seeds:
        try:
            value = int(seed)
        except (TypeError, ValueError, OverflowError):
            value = None
        if value is None or value != seed or not -(1 << 63) <= value < (1 << 64):
            raise UserError(f"seed {seed!r} is not an integer of at most 64 bits; give whole numbers as seeds.")
        words.append(((value >> 32) & 0xFFFFFFFF, value & 0xFFFFFFFF))
    data = jax.numpy.asarray(np.asarray(words, np.uint32).reshape(-1, 2))
    return jax.random.wrap_key_data(data, impl="threefry2x32")
