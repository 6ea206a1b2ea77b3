"""A task's images as a folder of files, which `folder:PATH` reads and a person can look through."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from bridgejax.data.examples import Examples
from bridgejax.data.images import SUFFIXES
from bridgejax.data.stored import FileImages
from bridgejax.data.tasks import load_task
from bridgejax.errors import UserError
from bridgejax.files import TEMPORARY_PREFIX, expanded


def export_task(
    source: str,
    folder: str | Path,
    *,
    shots: int | None = None,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    link: bool = False,
) -> Path:
    """Writes a task's images as files, `train/` and `test/` with a folder per class each; returns the folder.

    The same arguments write the same files; what an earlier call wrote there is replaced.

    Args:
      source, shots, seed, class_names: as `load_task` takes them; they decide which images are for training.
      folder: the folder, made if absent.
      link: link to images that lie in files, instead of copying them.

    Raises:
      UserError: as `load_task`; the folder holds something else; or a class cannot be the name of a folder.
    """
    target = expanded(folder)
    parts = ("train", "test")
    if target.is_file() or (target.is_dir() and {path.name for path in target.iterdir()} - {*parts}):
        raise UserError(f"{target} holds something else than {' and '.join(parts)}; give a new or an empty folder.")
    task = load_task(source, shots=shots, seed=seed, class_names=class_names)
    for name in task.class_names:
        if "/" in name or name.startswith("."):
            raise UserError(f"class {name!r} of {source} cannot be the name of a folder; export a task with other class names.")
    target.mkdir(parents=True, exist_ok=True)
    for part, examples in zip(parts, (task.train, task.test), strict=True):
        aside = target / f"{TEMPORARY_PREFIX}{part}"
        shutil.rmtree(aside, ignore_errors=True)
        _write(examples, task.class_names, aside, link)
        shutil.rmtree(target / part, ignore_errors=True)
        aside.rename(target / part)
    return target


def _write(examples: Examples, class_names: Sequence[str], folder: Path, link: bool) -> None:
    for name in class_names:
        (folder / name).mkdir(parents=True)
    for position, (identity, label) in enumerate(zip(examples.ids, examples.labels, strict=True)):
        name = Path(identity).name
        suffix = "" if Path(name).suffix.lower() in SUFFIXES else ".png"  # it is read by what it holds
        file = folder / class_names[int(label)] / f"{position:05d}-{name}{suffix}"
        if link and isinstance(examples.images, FileImages):
            os.symlink(examples.images.paths[position].resolve(), file)
        else:
            file.write_bytes(examples.images[position])
