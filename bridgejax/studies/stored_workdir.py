"""A workdir on an object store: a command works in a copy on this machine, whose finished files go to the store as they appear.

A store has no rename, no appending and no locks. In the copy all of these work as ever, and a file that appeared there is
whole. Files are uploaded in the order in which they were written, so that the store has a shard before the sidecar that counts
it, and a run's record before the results made of it. A checkpoint is many files that count together: it is one object, a tar.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import FrameType

from bridgejax import runtime
from bridgejax.errors import UserError
from bridgejax.files import TEMPORARY_PREFIX, StoreObject, place
from bridgejax.progress import stage_heading
from bridgejax.studies.execution import CLASSIFIER
from bridgejax.studies.run_results import CHECKPOINTS, RUNS_FOLDER
from bridgejax.workdir import LOCK_FILE

_SECONDS_BETWEEN = 10.0  # two looks at what is new
_SETTLED_SECONDS = 1.0  # a file system's clock may lag behind by less
_TAR = ".tar"
_OWN_ENGINES = ("local", "processes")  # executors whose workers see the copy

_Stamp = tuple[int, int, int]  # when written (nanoseconds), size, inode


class WorkingCopy:
    """The folder that a command works in.

    Attributes:
      folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def named(self, text: str) -> str:
        """Returns a text in which the workdir goes by the name that the user gave it."""
        return text


class _StoreCopy(WorkingCopy):
    """A copy of a workdir that lies on a store."""

    def __init__(self, folder: Path, store: StoreObject) -> None:
        super().__init__(folder)
        self._store = store
        self._known: dict[str, _Stamp] = {}  # what the store has of this copy, by its name there
        self._begun: set[PurePosixPath] = set()  # folders that count as a whole, of which the store may have a part
        self._refused = False
        self.ended = threading.Event()
        self._uploader = threading.Thread(target=self._go_on, daemon=True)

    def named(self, text: str) -> str:
        return text.replace(str(self.folder), str(self._store))

    def begin(self) -> None:
        """Fetches what the store has, and starts to look for new files.

        Raises:
          OSError: the store refuses to be read or written.
        """
        probe = self._store / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
        probe.write_bytes(b"")
        probe.unlink()
        names = self._store.names()
        for name in names:
            at = PurePosixPath(name)
            hidden = any(part.startswith(TEMPORARY_PREFIX) or part in ("..", LOCK_FILE) for part in at.parts)
            if not hidden and not (at.parent.name == CLASSIFIER and _mark(at.parent) in names):
                # What another command removed meanwhile was not to be had.
                with contextlib.suppress(FileNotFoundError):
                    self._fetch(name, self.folder / name)
        self._uploader.start()

    def _fetch(self, name: str, target: Path) -> None:
        """Fetches an object; a checkpoint that is no tar does not count."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            (self._store / name).download(target)
        except FileNotFoundError:
            target.unlink(missing_ok=True)
            raise
        if _is_checkpoint(name):
            step = target.with_suffix("")
            with contextlib.suppress(tarfile.TarError, shutil.ReadError, EOFError):
                shutil.unpack_archive(target, step, "tar", filter="data")
            target.unlink()
            target = step
        if target.exists():
            self._known[name] = _stamp(target)

    def _go_on(self) -> None:
        while not self.ended.wait(_SECONDS_BETWEEN):
            try:
                self._upload(time.time() - _SETTLED_SECONDS)
                self._refused = False
            except OSError as error:
                if not self._refused:
                    stage_heading(f"  {self._store} takes nothing at present ({error.strerror or error}); the work goes on.")
                self._refused = True

    def _upload(self, until: float) -> None:
        """Brings the store up to what was written until a time: seconds since the epoch.

        What is written after the look began waits for the next one: of two files that appear during the look, it may see the
        second alone.
        """
        found = self._found()
        for name, (path, stamp) in sorted(found.items(), key=lambda item: item[1][1]):
            if self._known.get(name) == stamp or stamp[0] > until * 1e9:
                continue
            if (group := PurePosixPath(name).parent).name == CLASSIFIER and group not in self._begun:
                (self._store / _mark(group)).write_bytes(b"")
                self._begun.add(group)
            try:
                self._put(path, name)
            except FileNotFoundError:
                if path.is_file():
                    raise
                continue  # gone, or about to go, since the look
            self._known[name] = stamp
        for group in sorted(self._begun):
            inside = {name: stamp for name, (_, stamp) in found.items() if PurePosixPath(name).parent == group}
            if inside.items() <= self._known.items():
                (self._store / _mark(group)).unlink(missing_ok=True)
                self._begun.remove(group)
        for name in sorted(self._known.keys() - found.keys()):
            # A look may miss what is renamed meanwhile.
            if not (self.folder / (name.removesuffix(_TAR) if _is_checkpoint(name) else name)).exists():
                (self._store / name).unlink(missing_ok=True)
                del self._known[name]

    def _found(self) -> dict[str, tuple[Path, _Stamp]]:
        """Returns what belongs on the store, by its name there: where it lies here and its stamp."""
        paths: dict[str, Path] = {}
        for root, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(TEMPORARY_PREFIX)]
            here = Path(root).relative_to(self.folder)
            if here.name == CHECKPOINTS and here.parts[0] == RUNS_FOLDER:
                paths |= {(here / f"{name}{_TAR}").as_posix(): Path(root, name) for name in folders if name.isdecimal()}
                folders.clear()
                continue
            names = [name for name in files if not name.startswith(TEMPORARY_PREFIX) and name != LOCK_FILE]
            paths |= {(here / name).as_posix(): Path(root, name) for name in names}
        found = {}
        for name, path in paths.items():
            with contextlib.suppress(FileNotFoundError):
                found[name] = path, _stamp(path)
        return found

    def _put(self, path: Path, name: str) -> None:
        if not path.is_dir():
            (self._store / name).upload(path)
            return
        with tempfile.TemporaryDirectory(prefix="bridgejax-") as aside:
            archive = shutil.make_archive(str(Path(aside, path.name)), "tar", path)
            (self._store / name).upload(Path(archive))

    def end(self) -> None:
        """Uploads what is left, and removes the copy.

        Raises:
          OSError: the store refuses; the copy stays.
        """
        self.ended.set()
        if self._uploader.ident is not None:
            self._uploader.join()
            self._upload(float("inf"))
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_checkpoint(name: str) -> bool:
    at = PurePosixPath(name)
    return at.suffix == _TAR and at.parent.name == CHECKPOINTS and at.parts[0] == RUNS_FOLDER


def _mark(group: PurePosixPath) -> str:
    """Returns the name of the object that is there while a folder is uploaded that counts as a whole."""
    return str(group.with_name(f"{TEMPORARY_PREFIX}{group.name}"))


def _stamp(path: Path) -> _Stamp:
    at = path.stat()
    return at.st_mtime_ns, at.st_size, at.st_ino


@contextlib.contextmanager
def working_copy(workdir: str | Path, executor: str = "local") -> Iterator[WorkingCopy]:
    """Gives the folder of a workdir: itself, or while the block lasts a copy of one on an object store.

    The copy lies in this machine's temporary folder ($TMPDIR) and needs as much room as the workdir. SIGTERM and SIGUSR1, where
    nothing else heeds them, end the process with the exit code to try again once what is finished is on the store.

    Args:
      workdir: a folder, or a URL such as gs://bucket/work of a scheme that fsspec knows.
      executor: who makes the units of work.

    Raises:
      UserError: the store is not known or refuses, several processes are at work, or the executor's workers would not see the
        copy. Errors inside the block name the workdir by its URL.
    """
    store = place(workdir)
    if isinstance(store, Path):
        yield WorkingCopy(store)
        return
    if executor not in _OWN_ENGINES:
        raise UserError(
            f"--workdir {store} is an object store, which workers of executor={executor!r} do not see; give a folder that all "
            "machines see, or start `bridgejax work` on each machine."
        )
    if runtime.place() is not None:
        import jax

        if jax.process_count() > 1:
            raise UserError(
                f"--workdir {store} is an object store, on which the {jax.process_count()} processes of a command cannot meet; "
                "give a folder that every host has mounted."
            )
    copy = _StoreCopy(Path(tempfile.mkdtemp(prefix="bridgejax-")).resolve(), store)
    try:
        copy.begin()
    except OSError as error:
        shutil.rmtree(copy.folder, ignore_errors=True)
        raise UserError(
            f"--workdir {store} cannot be used ({error.strerror or error}); see that the bucket is there, and that you may "
            "read, write and delete in it."
        ) from error
    with _heeding_signals(copy):
        try:
            yield copy
        except UserError as error:
            error.args = (copy.named(str(error)),)
            raise
        finally:
            _end(copy, store)


def _end(copy: _StoreCopy, store: StoreObject) -> None:
    try:
        copy.end()
    except OSError as error:
        raise UserError(
            f"--workdir {store} could not be written ({error.strerror or error}); what was made is kept in {copy.folder}: copy "
            "it there, or run the command again with that folder."
        ) from error


@contextlib.contextmanager
def _heeding_signals(copy: _StoreCopy) -> Iterator[None]:
    """While the block lasts, a scheduler's signal leaves it as an error would, and lets the last upload come to its end."""

    def leave(number: int, _: FrameType | None) -> None:
        if copy.ended.is_set():
            return
        sentence = f"ended by {signal.Signals(number).name}; what is finished is kept, run the command again."
        print(f"bridgejax: {sentence}", file=sys.stderr, flush=True)
        ending = SystemExit(sentence)
        ending.code = os.EX_TEMPFAIL
        raise ending

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGUSR1)} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
