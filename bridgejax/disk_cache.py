"""The cache folder on disk: what one process works out and later ones read instead of working it out again."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

from bridgejax.errors import UserError
from bridgejax.files import write_atomic

_DIGEST_BYTES = hashlib.sha256().digest_size
_folder: Path | None = None


def use(folder: Path | None) -> None:
    """Sets the cache folder of this process; None, as at the start, turns the cache off."""
    global _folder
    _folder = folder


def is_on() -> bool:
    """Returns whether there is a cache folder."""
    return _folder is not None


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Returns the installed versions of packages, as part of the key of an entry that depends on them."""
    return {name: importlib.metadata.version(name) for name in packages}


def get(kind: str, name: str) -> bytes | None:
    """Returns the content of an entry, or None if it is absent or damaged."""
    if _folder is not None:
        with contextlib.suppress(OSError):
            data = (_folder / kind / name).read_bytes()
            if hashlib.sha256(data[_DIGEST_BYTES:]).digest() == data[:_DIGEST_BYTES]:
                return data[_DIGEST_BYTES:]
    return None


def put(kind: str, name: str, data: bytes) -> None:
    """Writes an entry; if the folder cannot be written, nothing happens and the next process starts more slowly."""
    if _folder is not None:
        with contextlib.suppress(OSError, UserError):
            (_folder / kind).mkdir(parents=True, exist_ok=True)
            write_atomic(_folder / kind / name, hashlib.sha256(data).digest() + data)


def get_or_make(kind: str, name: str, make: Callable[[], bytes]) -> bytes:
    """Returns an entry's content, made and written first if it is not there.

    Args:
      kind: the folder of entries of this kind.
      name: the entry: `bridgejax.identity.digest` of everything that decides its content.
      make: makes the content.
    """
    data = get(kind, name)
    if data is None:
        data = make()
        put(kind, name, data)
    return data
