"""What one process works out and leaves in the cache folder for those after it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

from bridgejax.errors import UserError
from bridgejax.identity import write_atomic

_DIGEST_BYTES = hashlib.sha256().digest_size
_folder: Path | None = None


def keep_in(folder: Path | None) -> None:
    """Says where things are kept from now on; None, as at the start, means that nothing is."""
    global _folder
    _folder = folder


def is_kept() -> bool:
    """Tells whether there is a folder to keep things in."""
    return _folder is not None


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Returns the installed versions of packages, for what depends on them."""
    return {name: importlib.metadata.version(name) for name in packages}


def recall(kind: str, name: str) -> bytes | None:
    """Returns what was left in the cache folder, or None if there is nothing or it is damaged."""
    if _folder is not None:
        with contextlib.suppress(OSError):
            data = (_folder / kind / name).read_bytes()
            if hashlib.sha256(data[_DIGEST_BYTES:]).digest() == data[:_DIGEST_BYTES]:
                return data[_DIGEST_BYTES:]
    return None


def keep(kind: str, name: str, data: bytes) -> None:
    """Leaves something in the cache folder; where nothing can be written, only the next start is slower."""
    if _folder is not None:
        with contextlib.suppress(OSError, UserError):
            (_folder / kind).mkdir(parents=True, exist_ok=True)
            write_atomic(_folder / kind / name, hashlib.sha256(data).digest() + data)


def kept(kind: str, name: str, make: Callable[[], bytes]) -> bytes:
    """Returns `make()`, from the cache folder if an earlier process left it there.

    Args:
      kind: of thing, a folder's name.
      name: `bridgejax.identity.digest` of all that decides the result.
      make: works the result out.
    """
    data = recall(kind, name)
    if data is None:
        data = make()
        keep(kind, name, data)
    return data
