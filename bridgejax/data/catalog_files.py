"""Where the data of a catalogue task lies on disk, and the two published layouts that are neither TFDS nor class folders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bridgejax.data.catalog import CatalogTask, find_task, plain_key
from bridgejax.data.examples import Examples, no_examples
from bridgejax.data.folders import match_names, read_class_folders
from bridgejax.data.images import check_files
from bridgejax.data.stored import FileImages
from bridgejax.data.tfds_source import prepare_command, prepared_folders, read_tfds, tfds_base
from bridgejax.errors import UserError

CALTECH256_TRAIN = 60
Parts = tuple[tuple[str, ...], Examples, Examples]


def read_catalog_task(name: str, class_names: Sequence[str] | None, data_dir: str | Path | None) -> Parts:
    """Returns a catalogue task's class names, training and test examples: of a prepared TFDS set, an archive, or class folders.

    Args:
      name: as in `task:NAME`.
      class_names: the classes to take and their order, as spoken or as recorded; None takes all.
      data_dir: where data lies: TFDS sets as TFDS puts them, archives unpacked, or NAME/train and NAME/test of class folders
        (NAME/test alone of a task that only tests).

    Raises:
      UserError: the data is absent (says how to prepare it), of another version, or not that of the task.
    """
    task = find_task(name)
    base = tfds_base(data_dir)
    if task.tfds is not None and prepared_folders(task.tfds, data_dir):
        _, names, train, test = read_tfds(task.tfds, class_names, data_dir, task)
        if test is None:
            raise UserError(f"task:{name} has no test part under {base}; prepare it again.")
        return names, train, test
    if (base / name).is_dir():
        return _read_class_folders(task, base / name, class_names)
    if task.archive is not None and (base / task.archive[0]).is_dir():
        read = {"aircraft": _read_aircraft, "caltech256": _read_caltech256}[name]
        return read(task, base / task.archive[0], class_names)
    raise UserError(_absent(task, base))


def _absent(task: CatalogTask, base: Path) -> str:
    parts = "/train and /test" if task.train else "/test"
    folders = f"{base / task.name}{parts} with one folder of images per class"
    if task.tfds is not None:
        first = "put ILSVRC2012's two archives into its downloads/manual and " if task.name == "imagenet" else ""
        how = f"where there is a network, {first}run `{prepare_command(task.tfds, base)}`, then copy the folder here"
    elif task.archive is not None:
        folder, address = task.archive
        unpack = f"tar -x{'z' * address.endswith('gz')}f - -C {base}"
        how = f"where there is a network, run `mkdir -p {base} && curl -L {address} | {unpack}` (it makes {folder})"
    else:
        return f"task:{task.name} ({task.title}) is not under {base}; make {folders}, or set task.data_dir."
    return f"task:{task.name} ({task.title}) is not under {base}; {how}, or make {folders}, or set task.data_dir."


def _wanted(task: CatalogTask, class_names: Sequence[str] | None) -> list[str]:
    """Returns the recorded names of the classes to take, in order."""
    recorded = {spoken: key for key, spoken in task.table.items() if spoken}
    if class_names is None:
        return list(recorded.values())
    keys = {**{key: key for key in recorded.values()}, **recorded}
    return match_names(class_names, keys, f"a class of task:{task.name}")


def _read_class_folders(task: CatalogTask, root: Path, class_names: Sequence[str] | None) -> Parts:
    parts, keys = [], _wanted(task, class_names)
    names = tuple(task.table[key] for key in keys)
    for part in ("train", "test"):
        if part == "train" and not task.train:
            parts.append(no_examples())
            continue
        if not (root / part).is_dir():
            raise UserError(f"{root} has no {part}/; make it, with one folder of images per class of task:{task.name}.")
        folders = {plain_key(path.name): path.name for path in sorted((root / part).iterdir()) if path.is_dir()}
        if class_names is None and len(folders) != task.classes:
            raise UserError(
                f"{root / part} has {len(folders)} class folders, but task:{task.name} has {task.classes} classes; "
                "complete it, or name the classes to take in task.class_names."
            )
        matched = [
            next((folders[plain_key(n)] for n in (key, task.table[key]) if plain_key(n) in folders), None) for key in keys
        ]
        if None in matched:
            lacking = keys[matched.index(None)]
            raise UserError(
                f"{root / part} has no folder for class {task.table[lacking]!r} of task:{task.name}; add {lacking!r} with its "
                "images."
            )
        parts.append(read_class_folders(root / part, [str(name) for name in matched], prefix=f"{part}/")[1])
    return names, parts[0], parts[1]


def _read_aircraft(task: CatalogTask, root: Path, class_names: Sequence[str] | None) -> Parts:
    """The archive of FGVC-Aircraft: data/images, and lists of `NUMBER VARIANT` lines."""
    keys = _wanted(task, class_names)
    parts = []
    for split in ("trainval", "test"):
        file = root / "data" / f"images_variant_{split}.txt"
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(
                f"{file} could not be read ({error.strerror}); unpack the archive of task:aircraft again."
            ) from error
        rows = [line.split(" ", 1) for line in lines if line.strip()]
        unknown = next((row for row in rows if len(row) != 2 or row[1].strip() not in task.table), None)
        if unknown is not None:
            raise UserError(
                f"{file} has the line {' '.join(unknown)!r}, which names no variant of task:aircraft; unpack again."
            )
        taken = [(number, keys.index(variant.strip())) for number, variant in rows if variant.strip() in keys]
        taken.sort(key=lambda row: (row[1], row[0]))
        paths = [root / "data" / "images" / f"{number}.jpg" for number, _ in taken]
        parts.append(_examples(paths, [label for _, label in taken], root))
    return tuple(task.table[key] for key in keys), parts[0], parts[1]


def _read_caltech256(task: CatalogTask, root: Path, class_names: Sequence[str] | None) -> Parts:
    """The archive of Caltech-256: class folders, some of which hold more than images."""
    keys = _wanted(task, class_names)
    train: tuple[list[Path], list[int]] = ([], [])
    test: tuple[list[Path], list[int]] = ([], [])
    for label, key in enumerate(keys):
        files = sorted((root / key).glob("*.jpg"))
        if len(files) <= CALTECH256_TRAIN:
            raise UserError(
                f"{root / key} has {len(files)} images, but task:caltech256 trains on {CALTECH256_TRAIN} per class and tests "
                "on the others; unpack the archive again."
            )
        order = sorted(files, key=lambda path: hashlib.sha256(f"{key}/{path.name}".encode()).hexdigest())
        for (paths, labels), part in ((train, order[:CALTECH256_TRAIN]), (test, order[CALTECH256_TRAIN:])):
            paths += sorted(part)
            labels += [label] * len(part)
    return tuple(task.table[key] for key in keys), _examples(*train, root), _examples(*test, root)


def _examples(paths: list[Path], labels: list[int], root: Path) -> Examples:
    check_files(paths)
    ids = tuple(path.relative_to(root).as_posix() for path in paths)
    return Examples(FileImages(paths), np.asarray(labels, np.int32), ids)
