"""Tasks whose parts one JSON file lists, in the form of CoOp (Zhou et al. 2022): {"train": [[path, label, name], …], …}."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bridgejax.data.examples import Examples
from bridgejax.data.folders import match_names
from bridgejax.data.images import check_files
from bridgejax.data.stored import FileImages
from bridgejax.errors import UserError
from bridgejax.files import check_link
from bridgejax.prompts import check_class_names

PARTS = ("train", "test")
_Row = tuple[str, int, str]


def read_split_file(
    file: Path, class_names: Sequence[str] | None, data_dir: str | Path | None
) -> tuple[tuple[str, ...], Examples, Examples]:
    """Reads the images that a split file lists.

    Args:
      file: JSON with the lists "train" and "test" of [path, label, class name]; others, such as "val", are left out.
      class_names: the classes to take and their order; None takes all, by label.
      data_dir: the folder that the paths are relative to; None is the file's own, or the one folder in it that has the images.

    Returns:
      The class names, the training examples and the test examples; ids are the paths in the file.

    Raises:
      UserError: the file is missing or is no such list, a label has two names, or an image is missing or is none.
    """
    parts = _read(file)
    known: dict[int, str] = {}
    for path, label, name in (row for part in PARTS for row in parts[part]):
        if known.setdefault(label, name) != name:
            raise UserError(f"{file} calls label {label} both {known[label]!r} and {name!r} ({path!r}); correct the file.")
    by_label = {known[label]: label for label in sorted(known)}
    if len(by_label) < len(known):
        raise UserError(f"{file} gives two labels one class name; correct the file.")
    names = check_class_names(class_names or tuple(by_label))
    chosen = match_names(names, by_label, f"a class of {file}")
    root = _root(file, data_dir, parts["train"][0][0])
    train, test = (_examples(root, [row for row in parts[part] if row[1] in chosen], chosen) for part in PARTS)
    return names, train, test


def _read(file: Path) -> dict[str, list[_Row]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} could not be read ({error.strerror}); give task.source=split:FILE.json.") from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); get the split file again.") from error
    found: dict[str, list[_Row]] = {}
    for part in PARTS:
        rows = content.get(part) if isinstance(content, dict) else None
        if (
            not isinstance(rows, list)
            or not rows
            or not all(isinstance(row, list) and [type(value) for value in row] == [str, int, str] for row in rows)
        ):
            raise UserError(
                f"{file} has no list {part!r} of [path, label, class name]; expected a split file in the form of CoOp."
            )
        found[part] = [(path, label, name) for path, label, name in rows]
    return found


def _root(file: Path, data_dir: str | Path | None, first: str) -> Path:
    """Returns the folder that the paths are relative to."""
    if data_dir is not None:
        return Path(data_dir).expanduser()
    own = file.parent
    inner = [folder for folder in sorted(own.iterdir()) if (folder / first).is_file()]
    return inner[0] if len(inner) == 1 and not (own / first).is_file() else own


def _examples(root: Path, rows: Sequence[_Row], chosen: Sequence[int]) -> Examples:
    ordered = sorted(rows, key=lambda row: (chosen.index(row[1]), row[0]))
    paths = [root / path for path, _, _ in ordered]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        check_link(missing)
        raise UserError(f"{missing}, which the split file lists, was not found; set task.data_dir to the folder of the images.")
    check_files(paths)
    labels = np.asarray([chosen.index(label) for _, label, _ in ordered], np.int32)
    return Examples(FileImages(paths), labels, tuple(path for path, _, _ in ordered))
