"""Folders of class folders of image files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from bridgejax.config import composed
from bridgejax.data.examples import Examples
from bridgejax.data.images import KNOWN_FORMATS, SUFFIXES, check_files
from bridgejax.data.parts import entries, holding, where_the_task_is
from bridgejax.data.stored import FileImages
from bridgejax.errors import UserError, choices
from bridgejax.prompts import display_name

_T = TypeVar("_T")


def class_folders(root: Path) -> dict[str, Path]:
    """Returns the class folders in a folder by their names in NFC, sorted.

    Raises:
      UserError: two have the same name in NFC, or the folder cannot be read.
    """
    folders = entries(root)[0]
    names = composed([path.name for path in folders], f"the folder {root}")
    return dict(sorted(zip(names, folders, strict=True)))


def read_class_folders(root: Path, class_names: Sequence[str] | None, prefix: str = "") -> tuple[tuple[str, ...], Examples]:
    """Reads a folder of class folders.

    Args:
      root: the folder; each folder in it is a class, and all image files at or below that are its images.
      class_names: the classes to take, and their order; None takes all, sorted by name. Names are compared in NFC, as they
        are or with "_" read as " ".
      prefix: put before each id.

    Returns:
      The class names, and the examples with ids `prefix + path relative to root` in NFC, ordered by class and path.

    Raises:
      UserError: there is no class folder, only one class, a class without images, a file that is not a readable image, a
        name without a folder, two names of one folder, or two folders or files that differ in their code points alone.
    """
    folders = class_folders(root)
    hint = where_the_task_is(root) if class_names is None and len(holding(root)) < 2 else ""
    if not folders or (hint and not holding(root)):
        raise UserError(f"folder {root} holds no class folders; {hint or 'expected one folder of images per class'}.")
    names = tuple(folders) if class_names is None else tuple(class_names)
    matched = match_names(names, folders, f"a folder in {root}")
    if len(names) < 2 or hint:
        advice = hint or "a classifier needs at least two class folders"
        raise UserError(f"folder {root} has only one class ({names[0]!r}); {advice}.")
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(matched):
        files = _class_files(folder)
        if not files:
            raise UserError(f"class folder {folder} holds no images; add image files ({KNOWN_FORMATS}), or remove it.")
        paths += files
        labels += [label] * len(files)
    check_files(paths)
    ids = composed([prefix + path.relative_to(root).as_posix() for path in paths], f"the folder {root}")
    return names, Examples(FileImages(paths), np.asarray(labels, np.int32), tuple(ids))


def _class_files(folder: Path) -> list[Path]:
    folders, files = entries(folder)
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} is not an image file (expected {KNOWN_FORMATS}); remove it or convert it.")
    return sorted([*files, *(file for inner in folders for file in _class_files(inner))])


def match_names(names: Sequence[str], known: Mapping[str, _T], what: str) -> list[_T]:
    """Returns what each name means, of what is known by name.

    Raises:
      UserError: a name means nothing, or two mean the same.
    """
    composed(list(known), f"what task.class_names chooses from, each {what},")
    meant: dict[_T, str] = {}
    for name in names:
        meaning = known[match_name(name, known, what)]
        if meaning in meant:
            raise UserError(f"task.class_names names {what} twice, as {meant[meaning]!r} and as {name!r}; name each once.")
        meant[meaning] = name
    return list(meant)


def match_name(name: str, known: Collection[str], what: str) -> str:
    """Returns the known name that `name` means: the same text in NFC, or the same with "_" read as " ".

    Raises:
      UserError: there is none.
    """
    if name in known:
        return name
    alike = [other for other in known if display_name(other) == display_name(name)]
    if len(alike) == 1:
        return alike[0]
    raise UserError(f"task.class_names names {name!r}, which is not {what}; {choices(name, known)}")
