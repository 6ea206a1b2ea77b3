"""Files that are whole or absent, JSON in and out, and the folder of built-in assets."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from bridgejax.errors import UserError, choices

JSONObject: TypeAlias = dict[str, Any]  # as `json.loads` returns it; whoever reads a key checks its value

TEMPORARY_PREFIX = ".tmp-"
MAX_JSON_BYTES = 64 << 20
_ASSETS = Path(__file__).resolve().parent / "assets"


def asset(name: str, known: Sequence[str], what: str) -> Path:
    """Returns the folder of a built-in asset.

    Args:
      name: such as "builtin:tiny_diffusion".
      known: the names of this kind of asset.
      what: the kind, for messages.

    Raises:
      UserError: there is no such asset, or this installation lacks it.
    """
    if name not in known:
        raise UserError(f"{what} {name!r} is not built in; {choices(name, known)}")
    folder = asset_folder(name)
    if not folder.is_dir():
        raise UserError(f"{name} is not part of this installation ({folder} is missing); install bridgejax from a full copy.")
    return folder


def asset_folder(name: str) -> Path:
    """Returns where the built-in asset of a name lies in a full installation; "builtin:" before the name may be left out."""
    return _ASSETS / name.removeprefix("builtin:")


def expanded(path: str | Path) -> Path:
    """Returns a path with "~" as the home folder that it stands for.

    Raises:
      UserError: there is no such home folder (a container's user often has none).
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path} begins with a home folder that is not known; give the whole path, or set HOME.") from error


def read_json(path: Path, hint: str = "fetch it again") -> object:
    """Returns the content of a JSON file.

    Args:
      path: a file of at most `MAX_JSON_BYTES`.
      hint: what to do about a wrong file, for messages.

    Raises:
      UserError: the file is missing, cannot be read, is too large or is not JSON.
    """
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise UserError(f"{path} holds {size} bytes, more than the {MAX_JSON_BYTES} that a JSON file may hold; {hint}.")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {hint}.") from error
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); {hint}.") from error


def read_json_object(path: Path, hint: str = "fetch it again") -> JSONObject:
    """Returns the object in a JSON file; arguments and errors as of `read_json`.

    Raises:
      UserError: also where the content is not an object.
    """
    value = read_json(path, hint)
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object; {hint}.")
    return value


def canonical_json(value: object) -> str:
    """Returns JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_plain)


def _plain(value: object) -> object:
    if hasattr(value, "tolist"):  # an array or a number of NumPy
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "to_dict"):
        return value.to_dict()
    raise TypeError(f"{type(value).__name__} has no canonical JSON form")


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Writes a file whole or not at all: aside, synced to disk, then renamed.

    Raises:
      UserError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    target = Path(path)
    aside = target.with_name(f"{TEMPORARY_PREFIX}{target.name}.{secrets.token_hex(4)}")
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except OSError as error:
        raise UserError(f"{target} could not be written ({error.strerror}); free space or choose another --workdir.") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Writes `value` as indented, key-sorted JSON, atomically."""
    plain = json.loads(canonical_json(value))
    write_atomic(path, json.dumps(plain, indent=1, sort_keys=True) + "\n")


def remove_temporary_files(folder: str | os.PathLike[str]) -> None:
    """Removes what `write_atomic` left in `folder` (not below it) when its process was killed."""
    for leftover in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_file():
            leftover.unlink(missing_ok=True)
