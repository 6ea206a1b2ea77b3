"""Which folders of a data set are classes and which its parts: structure says it, names only say which part is which."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from bridgejax.config import nfc
from bridgejax.data.images import SUFFIXES
from bridgejax.errors import UserError
from bridgejax.files import check_link
from bridgejax.prompts import display_name
from bridgejax.workdir import read_config

# What operating systems, file servers and tools leave in folders, beside all that begins with a dot.
_SYSTEM = frozenset(
    ["thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "lost+found", "$recycle.bin"]
)
_SYSTEM |= {"system volume information", "@eadir", "@recycle", "@__thumb", "@tmp", "@recently-snapshot", "~snapshot"}
_SYSTEM |= {"#recycle", "#snapshot", "network trash folder", "temporary items", "recycler", "found.000"}
# Files by which a folder is one that bridgejax wrote: a generated set, a classifier. A workdir is known by its config.
_OWN_FILES = ("dataset_info.json", "model.safetensors")
# What a part may be called, alone or among other words: train, seg_train, train2017, training_set.
_WORDS = {
    "train": "train training trainset trainval traindata trn",
    "test": "test testing tests testset testdata tst",
    "validation": "val valid validation validate valset dev devset eval evaluation evaluate holdout",
    "unlabelled": "pred predict prediction predictions unlabeled unlabelled",
}
_PARTS = {word: part for part, words in _WORDS.items() for word in words.split()}
_SHOWN = 3  # names in a message


def entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the folders and the files in a folder, each sorted by name, without what systems and bridgejax itself put there.

    Raises:
      UserError: the folder cannot be read, or holds a link to what is not there.
    """
    folders: list[Path] = []
    files: list[Path] = []
    try:
        with os.scandir(folder) as found:
            for entry in sorted(found, key=lambda entry: entry.name):
                if not entry.name.startswith(".") and entry.name.lower() not in _SYSTEM:
                    if entry.is_symlink():
                        check_link(folder / entry.name)
                    (folders if entry.is_dir() else files).append(folder / entry.name)
    except OSError as error:
        raise UserError(f"{folder} could not be read ({error.strerror}); check its permissions.") from error
    return [path for path in folders if not _is_own(path)], files


def _is_own(folder: Path) -> bool:
    """Tells whether bridgejax wrote a folder: no class has its files."""
    if any((folder / name).is_file() for name in _OWN_FILES):
        return True
    try:
        return {"task", "arms", "classifier"} <= (read_config(folder) or {}).keys()
    except (OSError, UserError):
        return False


def _has_images(folder: Path) -> bool:
    """Whether images lie in the folder itself."""
    return any(path.suffix.lower() in SUFFIXES for path in entries(folder)[1])


def holding(folder: Path) -> list[Path]:
    """Returns the folders in a folder at or below which images lie."""
    return [path for path in entries(folder)[0] if _has_images(path) or holding(path)]


def _inner(folder: Path) -> Path:
    """Returns where the class folders of a part lie: in it, or deeper where each level is a single folder (as in archives)."""
    while not _has_images(folder) and len(inside := holding(folder)) == 1 and holding(inside[0]):
        folder = inside[0]
    return folder


def _part(folder: Path) -> str:
    """Returns which part a folder's name says it is, "" where it says nothing or two things."""
    found = {_PARTS[word] for word in re.findall("[a-z]+", nfc(folder.name).lower()) if word in _PARTS}
    return found.pop() if len(found) == 1 else ""


def _names(folders: Iterable[Path]) -> set[str]:
    return {display_name(folder.name) for folder in folders}


def _shown(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")


def split_folders(root: Path, wanted: Sequence[str] | None = None) -> tuple[Path, Path | None]:
    """Returns the folders of the training and the test part; without a test part, the folder itself and None.

    Top folders are parts where they hold the same class folders; what they are called says which is for training and which
    for testing (without a test part, that for validation). Folders without images beside them are ignored, and so are a
    validation part beside a test part and images for prediction.

    Args:
      root: the folder.
      wanted: the class names asked for, if any: where they are those of the top folders, these are classes whatever they hold.

    Raises:
      UserError: the folder is missing, empty or a file, has a training part only, has images beside its parts, or has top
        folders that look like parts and do not say which.
    """
    if not root.exists():
        check_link(root)
        raise UserError(f"folder {root} was not found; give task.source=folder:PATH with one folder of images per class.")
    if not root.is_dir():
        raise UserError(f"{root} is a file; give task.source=folder:PATH with one folder of images per class.")
    if not any(entries(root)):
        raise UserError(f"folder {root} is empty; expected class folders with images, or train/ and test/ with such.")
    tops = holding(root)
    if wanted and {display_name(name) for name in wanted} <= _names(tops):
        return root, None
    inner = {top: _inner(top) for top in tops}
    classes = {top: _names(holding(inner[top])) for top in tops}
    trains = sorted((top for top in tops if _part(top) == "train" and classes[top]), key=lambda top: not _is_plain(top))
    if not trains:
        _check_not_parts(root, classes)
        return root, None
    train = trains[0]
    tests = [top for top in tops if _part(top) in ("test", "validation")]
    tests.sort(key=lambda top: (not classes[top] & classes[train], _part(top) != "test", not _is_plain(top)))
    beside = [top for top in tops if top not in (train, *tests) and _part(top) != "unlabelled"]
    if not tests and not beside and _is_plain(train):
        raise UserError(
            f"folder {root} has {train.name}/ but no test/; add test/ with the same class folders, or give {train} itself."
        )
    if not tests or not _is_pair(train, tests[0], classes):
        _check_not_parts(root, classes)
        return root, None
    if beside:
        raise UserError(
            f"folder {root} has {train.name}/ and {tests[0].name}/, but also images in {beside[0].name}/, which is not "
            f"part of a task; move {beside[0]} elsewhere, or its images into the class folders of {train.name}/."
        )
    return inner[train], inner[tests[0]]


def _is_plain(folder: Path) -> bool:
    """Whether a folder's whole name is that of a part, but for a number (Kaggle's test1)."""
    return re.sub(r"_?\d+$", "", nfc(folder.name).lower()) in _PARTS


def _is_pair(train: Path, test: Path, classes: dict[Path, set[str]]) -> bool:
    """Tells parts from classes that are called like parts: those hold other folders, or images themselves."""
    if classes[train] & classes[test]:
        return True
    return _is_plain(train) and _is_plain(test) and (bool(classes[test]) or not _has_images(train))


def _check_not_parts(root: Path, classes: dict[Path, set[str]]) -> None:
    """Checks that top folders whose names say nothing are not parts all the same.

    Raises:
      UserError: they hold the same class folders, each of them holds parts, or all are called like parts and hold images.
    """
    if {"train"} < {_part(top) for top in classes} and not any(classes.values()) and all(map(_is_plain, classes)):
        raise UserError(
            f"the folders in {root} ({_shown(top.name for top in classes)}) are called like parts of a data set, but hold "
            "images instead of class folders; sort the images of each into a folder for each class, or name them in "
            "task.class_names if they are classes."
        )
    tops = [top for top, names in classes.items() if names and not _has_images(top)]
    if len(tops) < 2 or len(tops) < len(classes):
        return
    shown = _shown(top.name for top in tops)
    below = [{_part(Path(name)) for name in classes[top]} for top in tops]
    if all("" not in parts and parts & {"train"} for parts in below):
        raise UserError(
            f"each folder in {root} ({shown}) holds parts such as {_shown(classes[tops[0]])}; give one of them, as "
            f"task.source=folder:{tops[0]}, or, if they are classes, sort the images into {root / 'train'} and {root / 'test'} "
            "with a folder for each class in both."
        )
    shared = set.intersection(*classes.values())
    if len(shared) > 1 and 2 * len(shared) >= len(set.union(*classes.values())):
        raise UserError(
            f"the folders in {root} ({shown}) hold the same class folders ({_shown(shared)}), so they look like parts of a "
            f"data set; call them train and test, give one of them, as task.source=folder:{tops[0]}, or name them in "
            "task.class_names if they are classes."
        )


def where_the_task_is(root: Path) -> str:
    """Returns the end of a sentence about a folder that is no task: which folder below or above looks like one; "" if none."""
    inside = holding(root)
    while len(inside) == 1 and not _has_images(inside[0]):
        below = inside[0]
        inside = holding(below)
        if len(inside) > 1:
            return f"{below} in it looks like the task, so give task.source=folder:{below}"
    above = root.resolve().parent
    if not inside and _has_images(root) and sum(map(_has_images, entries(above)[0])) > 1:
        above = above.parent if _part(above) and sum(bool(_part(path)) for path in entries(above.parent)[0]) > 1 else above
        return f"{above} above it looks like the task, so give task.source=folder:{above}"
    return ""


def find_folder(path: Path) -> Path:
    """Returns the folder of a path; where there is none, one whose names are the same letters, composed otherwise."""
    if path.exists() or path == path.parent:
        return path
    parent = find_folder(path.parent)
    try:
        alike = [name for name in os.listdir(parent) if nfc(name) == nfc(path.name)]
    except OSError:
        alike = []
    return parent / alike[0] if len(alike) == 1 else path
