"""The folder that a command owns: created late, locked while in use, continued by the same command."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bridgejax.errors import UserError
from bridgejax.files import TEMPORARY_PREFIX, check_link, remove_temporary_files, write_json

CONFIG_FILE = "config.json"
LOCK_FILE = ".lock"
MINIMUM_FREE_BYTES = 64 << 20

# (a saved config, a new one) → what differs and decides results (`bridgejax.config.differences`).
Differences = Callable[[Mapping[str, object], Mapping[str, object]], list[str]]


def check_workdir(path: Path, config: Mapping[str, object], differences: Differences) -> None:
    """Checks, without writing, that `path` can hold (or already holds) the work of `config`.

    Raises:
      UserError: not a folder, not writable, no space, someone else's files, or the work of another config.
    """
    if re.match(r"[a-z][a-z0-9+]+:/", str(path)):
        raise UserError(
            f"--workdir {path} is a URL in place of a folder; from Python, take the folder that "
            "`bridgejax.studies.stored_workdir.working_copy` gives for it."
        )
    check_link(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir {path} is a file; give a folder.")
    existing = path
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not _writable(existing):
        raise UserError(f"--workdir {path} cannot be written; choose a folder that you may write to.")
    free = shutil.disk_usage(existing).free
    if free < MINIMUM_FREE_BYTES:
        raise UserError(
            f"--workdir {path}: only {free >> 20} MiB are free on its disk; free at least {MINIMUM_FREE_BYTES >> 20} MiB."
        )
    saved = read_config(path)
    if saved is not None:
        changed = differences(saved, config)
        if changed:
            raise UserError(
                f"--workdir {path} holds the work of another config ({'; '.join(changed)}); choose a new --workdir."
            )
    elif path.is_dir() and any(
        entry.name != LOCK_FILE and not entry.name.startswith(TEMPORARY_PREFIX) for entry in path.iterdir()
    ):
        raise UserError(f"--workdir {path} holds files but no {CONFIG_FILE}; choose a new or an empty folder.")


def check_shared(path: Path) -> None:
    """Makes sure that all processes of a command see one and the same folder.

    Raises:
      UserError: this process does not see what another one wrote there.
    """
    import jax

    from bridgejax.mesh import barrier

    number = jax.process_count()
    if number == 1:
        return
    marks = [path / f"{TEMPORARY_PREFIX}process-{process}" for process in range(number)]
    with contextlib.suppress(OSError):  # a folder that is not there has no marks
        marks[jax.process_index()].touch()
    barrier("bridgejax: workdir marked")
    unseen = [process for process, mark in enumerate(marks) if not mark.exists()]
    barrier("bridgejax: workdir compared")
    with contextlib.suppress(OSError):
        marks[jax.process_index()].unlink()
    if unseen:
        raise UserError(
            f"--workdir {path} is not one folder for all {number} processes (process {jax.process_index()} does not see what "
            f"process {unseen[0]} wrote there); give a folder on a file system that every host has mounted."
        )


def _writable(folder: Path) -> bool:
    # The mode bits say nothing to root or on a read-only mount: try it.
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def read_config(path: Path) -> dict[str, object] | None:
    """Returns the config a workdir was made with, or None if it has none yet.

    Raises:
      UserError: its file is damaged or cannot be read.
    """
    file = path / CONFIG_FILE
    if not file.is_file():
        return None
    try:
        saved = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); make it readable, or choose a new --workdir.") from error
    except ValueError:
        saved = None
    if not isinstance(saved, dict):
        raise UserError(f"{file} is not the JSON object that a command wrote there; restore it, or choose a new --workdir.")
    return saved


@contextlib.contextmanager
def open_workdir(path: Path, config: Mapping[str, object], differences: Differences) -> Iterator[None]:
    """Creates and locks the workdir, records the config, and leaves no temporary or lock file behind.

    The lock is the kernel's, so a killed process leaves none; a second command on the same folder is refused.

    Raises:
      UserError: as `check_workdir`, or another command is at work in the folder.
    """
    check_workdir(path, config, differences)
    path.mkdir(parents=True, exist_ok=True)
    lock = _locked(path)
    try:
        remove_temporary_files(path)
        if read_config(path) != config:
            write_json(path / CONFIG_FILE, config)
        yield
    finally:
        # While still locked, so that it is no other command's; not being able to is no reason to hide what went wrong before.
        with contextlib.suppress(OSError):
            (path / LOCK_FILE).unlink()
        os.close(lock)


def _locked(path: Path) -> int:
    """Returns the open lock file of a workdir, locked."""
    while True:
        lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(lock)
                raise UserError(
                    f"another command is at work in --workdir {path}; wait for it or choose another folder."
                ) from error
            return lock  # file systems without locks (some network mounts): go on unlocked
        if os.fstat(lock).st_nlink:
            return lock
        # Another command removed this file when it ended, after it was opened here: a lock on it keeps nobody out.
        os.close(lock)
