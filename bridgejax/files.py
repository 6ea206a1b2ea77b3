"""Files that are whole or absent, JSON in and out, object stores, and the folder of built-in assets."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

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


def check_link(path: Path) -> None:
    """Checks that no part of a path is a symbolic link to what is not there.

    Raises:
      UserError: one is; the link and its target are named.
    """
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            raise UserError(f"{place} is a link to {os.readlink(place)}, which is missing; restore it, or replace the link.")


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
        check_link(path)
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


class StoreObject:
    """A file or folder of an object store, such as gs://bucket/set, with the part of `pathlib.Path` that a set needs.

    A store has no rename and no folders: an object is whole once its upload has ended, and absent before. Every call asks the
    store anew, since other machines write too.

    Args:
      url: of a scheme that fsspec knows. gs:// takes the package gcsfs, s3:// takes s3fs; memory:// is in this process.

    Raises:
      UserError: the scheme is not known, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        scheme, _, path = url.partition("://")
        self.url = f"{scheme}://{path.rstrip('/')}"
        try:
            self._store = fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError as error:
            raise UserError(f"{url} cannot be reached ({error}); install that package, or give a local folder.") from error
        except ValueError as error:
            raise UserError(f"{url}: {scheme}:// is no storage that fsspec knows; give a folder, gs://… or s3://….") from error

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> StoreObject:
        return StoreObject(f"{self.url}/{name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreObject) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Turns what each store raises in its own way into an OSError that says why."""
        try:
            yield
        except FileNotFoundError:
            raise
        except UserError:
            raise
        except Exception as error:
            raise OSError(errno.EIO, f"the store refused: {error or type(error).__name__}", self.url) from error

    def exists(self) -> bool:
        with self._asking(), contextlib.suppress(FileNotFoundError):
            self._store.info(self.url)
            return True
        return False

    def is_dir(self) -> bool:
        with self._asking():
            return bool(self._store.isdir(self.url))

    def is_file(self) -> bool:
        with self._asking():
            return bool(self._store.isfile(self.url))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a store's folders are but the beginnings of its names."""

    def rmdir(self) -> None:
        """Does nothing, for the same reason."""

    def glob(self, pattern: str) -> list[StoreObject]:
        with self._asking():
            try:
                names = sorted(str(path).rstrip("/").rpartition("/")[2] for path in self._store.ls(self.url, detail=False))
            except FileNotFoundError:
                return []
        return [self / name for name in names if fnmatch.fnmatchcase(name, pattern)]

    def names(self) -> list[str]:
        """Returns the names of all objects below, relative to this one."""
        root = f"{self.url.partition('://')[2]}/"
        with self._asking():
            return sorted(str(path).partition(root)[2] for path in self._store.find(self.url))

    def size(self) -> int:
        with self._asking():
            return int(self._store.info(self.url)["size"])

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Opens the object for reading from its beginning."""
        with self._asking(), self._store.open(self.url, "rb") as file:
            yield file

    def read_bytes(self) -> bytes:
        with self._asking():
            return bytes(self._store.cat_file(self.url))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        with self._asking():
            self._store.pipe_file(self.url, content)

    def upload(self, file: Path) -> None:
        with self._asking():
            self._store.put_file(str(file), self.url)

    def download(self, file: Path) -> None:
        with self._asking():
            self._store.get_file(self.url, str(file))

    def unlink(self, missing_ok: bool = False) -> None:
        with self._asking():
            try:
                self._store.rm_file(self.url)
            except FileNotFoundError:
                if not missing_ok:
                    raise


Place: TypeAlias = Path | StoreObject  # where a file or folder is


def place(path: str | Path | StoreObject) -> Place:
    """Returns a path of this machine, or a `StoreObject` where the text is a URL (gs://bucket/set); errors as of that."""
    if isinstance(path, StoreObject):
        return path
    return StoreObject(path) if isinstance(path, str) and "://" in path else Path(path)


def file_size(file: Place) -> int:
    """Returns a file's size in bytes.

    Raises:
      OSError: it is missing, or the store refuses.
    """
    return file.size() if isinstance(file, StoreObject) else file.stat().st_size


@contextlib.contextmanager
def local_copy(file: Place) -> Iterator[Path]:
    """Gives a file of this machine with the content: the file itself, or for as long as it is needed a download.

    Raises:
      OSError: the store lacks it or refuses.
    """
    if isinstance(file, Path):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="bridgejax-") as folder:
        copy = Path(folder, file.name)
        file.download(copy)
        yield copy


@contextlib.contextmanager
def written_aside(target: Place) -> Iterator[Path]:
    """Gives a path of this machine to write to, and puts it at `target` by `commit`; whatever is left of it goes.

    Raises:
      OSError: there is no temporary folder to write to.
    """
    if isinstance(target, Path):
        aside = target.with_name(f"{TEMPORARY_PREFIX}{target.name}.{secrets.token_hex(4)}")
        try:
            yield aside
        finally:
            with contextlib.suppress(OSError):
                aside.unlink()
    else:
        with tempfile.TemporaryDirectory(prefix="bridgejax-") as folder:
            yield Path(folder, target.name)


def commit(aside: Path, target: Place) -> None:
    """Makes a file that was written aside appear whole: by rename, or on a store by upload.

    Raises:
      OSError: it cannot be done; the target is as it was.
    """
    if isinstance(target, StoreObject):
        target.upload(aside)
    else:
        os.replace(aside, target)


def write_atomic(path: str | Path | StoreObject, content: bytes | str) -> None:
    """Writes a file whole or not at all: aside, synced to disk, then renamed; to a store in one upload.

    Raises:
      UserError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    target = place(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        if isinstance(target, StoreObject):
            target.write_bytes(data)
            return
        with written_aside(target) as aside:
            with open(aside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            commit(aside, target)
    except OSError as error:
        advice = "see that you may write there" if isinstance(target, StoreObject) else "free space or choose another --workdir"
        raise UserError(f"{target} could not be written ({error.strerror or error}); {advice}.") from error


def write_json(path: str | Path | StoreObject, value: object) -> None:
    """Writes `value` as indented, key-sorted JSON, atomically."""
    plain = json.loads(canonical_json(value))
    write_atomic(path, json.dumps(plain, indent=1, sort_keys=True) + "\n")


def remove_temporary_files(folder: str | os.PathLike[str]) -> None:
    """Removes what `write_atomic` left in `folder` (not below it) when its process was killed."""
    for leftover in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_file():
            leftover.unlink(missing_ok=True)
