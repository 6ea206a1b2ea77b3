"""Folders of class folders of image files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from bridgejax.data.examples import Examples
from bridgejax.data.images import KNOWN_FORMATS, SUFFIXES, check_files
from bridgejax.data.stored import FileImages
from bridgejax.errors import UserError, choices
from bridgejax.prompts import display_name

# What operating systems leave in folders.
_IGNORED = ("thumbs.db", "desktop.ini", "__macosx")
_TRAIN, _TEST = "train", ("test", "val", "valid", "validation")
_T = TypeVar("_T")


def _visible(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise UserError(f"{folder} could not be read ({error.strerror}); check its permissions.") from error
    return [path for path in entries if not path.name.startswith(".") and path.name.lower() not in _IGNORED]


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _has_images(folder: Path) -> bool:
    """Whether images lie in the folder itself."""
    return any(path.suffix.lower() in SUFFIXES and path.is_file() for path in _visible(folder))


def _holds_images(folder: Path) -> bool:
    """Whether images lie in the folder or below."""
    return _has_images(folder) or _is_part(folder)


def _is_part(folder: Path) -> bool:
    """A part of a data set holds class folders with images."""
    return any(_holds_images(path) for path in _folders(folder))


def split_folders(root: Path) -> tuple[Path, Path | None]:
    """Returns the folders of the training and the test part; without a test part, the folder itself and None.

    The parts are folders named train and test (or else val, valid or validation, which beside test are left out), in any
    case, that hold class folders. Folders without images beside them are ignored.

    Raises:
      UserError: the folder is missing, empty or a file, has a training part only, or has images beside its parts.
    """
    if not root.exists():
        raise UserError(f"folder {root} was not found; give task.source=folder:PATH with one folder of images per class.")
    if not root.is_dir():
        raise UserError(f"{root} is a file; give task.source=folder:PATH with one folder of images per class.")
    if not _visible(root):
        raise UserError(f"folder {root} is empty; expected class folders with images, or train/ and test/ with such.")
    parts = {path.name.lower(): path for path in reversed(_folders(root))}
    train, tests = parts.get(_TRAIN), [parts[name] for name in _TEST if name in parts]
    if train is None or not _is_part(train):
        return root, None
    others = [path for path in _folders(root) if path not in (train, *tests) and _holds_images(path)]
    if not tests and not others:
        raise UserError(
            f"folder {root} has {train.name}/ but no test/; add test/ with the same class folders, or give {train} itself."
        )
    # Classes called train and test hold images themselves, though there may be folders beside the images.
    if not tests or (_has_images(train) and not _is_part(tests[0])):
        return root, None
    if others:
        raise UserError(
            f"folder {root} has {train.name}/ and {tests[0].name}/, but also images in {others[0].name}/, which is not "
            f"part of a task; move {others[0]} elsewhere, or its images into the class folders of {train.name}/."
        )
    return train, tests[0]


def read_class_folders(root: Path, class_names: Sequence[str] | None, prefix: str = "") -> tuple[tuple[str, ...], Examples]:
    """Reads a folder of class folders.

    Args:
      root: the folder; each folder in it is a class, and all image files at or below that are its images.
      class_names: the classes to take, and their order; None takes all, sorted by name. A name matches its folder as it
        is or with "_" read as " ".
      prefix: put before each id.

    Returns:
      The class names, and the examples with ids `prefix + path relative to root`, ordered by class and path.

    Raises:
      UserError: there is no class folder, only one class, a class without images, a file that is not a readable image, a
        name without a folder, or two names of one folder.
    """
    folders = {path.name: path for path in _folders(root)}
    if not folders:
        raise UserError(f"folder {root} holds no class folders; expected one folder of images per class.")
    names = tuple(folders) if class_names is None else tuple(class_names)
    matched = match_names(names, folders, f"a folder in {root}")
    if len(names) < 2:
        raise UserError(f"folder {root} has only one class ({names[0]!r}); a classifier needs at least two class folders.")
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(matched):
        files = _class_files(folder)
        if not files:
            raise UserError(f"class folder {folder} holds no images; add image files ({KNOWN_FORMATS}), or remove it.")
        paths += files
        labels += [label] * len(files)
    check_files(paths)
    ids = tuple(prefix + path.relative_to(root).as_posix() for path in paths)
    return names, Examples(FileImages(paths), np.asarray(labels, np.int32), ids)


def _class_files(folder: Path) -> list[Path]:
    files: list[Path] = []
    for path in _visible(folder):
        if path.is_dir():
            files += _class_files(path)
        elif path.suffix.lower() in SUFFIXES:
            files.append(path)
        else:
            raise UserError(f"{path} is not an image file (expected {KNOWN_FORMATS}); remove it or convert it.")
    return files


def match_names(names: Sequence[str], known: Mapping[str, _T], what: str) -> list[_T]:
    """Returns what each name means, of what is known by name.

    Raises:
      UserError: a name means nothing, or two mean the same.
    """
    meant: dict[_T, str] = {}
    for name in names:
        meaning = known[match_name(name, known, what)]
        if meaning in meant:
            raise UserError(f"task.class_names names {what} twice, as {meant[meaning]!r} and as {name!r}; name each once.")
        meant[meaning] = name
    return list(meant)


def match_name(name: str, known: Collection[str], what: str) -> str:
    """Returns the known name that `name` means: the same text, or the same with "_" read as " ".

    Raises:
      UserError: there is none.
    """
    if name in known:
        return name
    alike = [other for other in known if display_name(other) == display_name(name)]
    if len(alike) == 1:
        return alike[0]
    raise UserError(f"task.class_names names {name!r}, which is not {what}; {choices(name, known)}")
