"""Tasks: class names with the real images to train, validate and test on."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bridgejax.data.examples import Examples, Task, image_digest, no_examples
from bridgejax.data.folders import class_folders, match_names, read_class_folders
from bridgejax.data.images import FULL_CHECK_BYTES, decode_rgb, encode_png, pad_to_square
from bridgejax.data.parts import find_folder, split_folders
from bridgejax.data.split_files import read_split_file
from bridgejax.data.splits import split_pool
from bridgejax.data.stored import StoredImages
from bridgejax.errors import UserError, choices
from bridgejax.files import asset_folder, expanded
from bridgejax.identity import digest
from bridgejax.prompts import check_class_names

BUILTIN = ("tux_photos",)
NAMES_ALONE = "classes"  # the source without images
_FORMS = (NAMES_ALONE, "builtin:tux_photos", "folder:PATH", "split:FILE.json", "task:NAME", "tfds:NAME")
_KINDS = tuple(form.partition(":")[0] for form in _FORMS)


def load_task(
    source: str,
    *,
    shots: int | None = None,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    validation_per_class: int = 0,
    data_dir: str | Path | None = None,
) -> Task:
    """Loads the real images of a task and splits them.

    Args:
      source: `classes` (the given `class_names` and no image); `builtin:tux_photos`; `folder:PATH` with train/ and test/ of
        class folders, or one folder of class folders split by seed; `split:FILE.json` of lists as CoOp publishes them
        (`bridgejax.data.split_files`); `task:NAME` of the catalogue (`bridgejax.data.catalog`);
        `tfds:NAME[/CONFIG][:VERSION]` or `tfds:PATH` of a prepared set, with the catalogue's splits and names if it is the data
        of one of its tasks. Nothing is downloaded.
      shots: real training images per class, `validation_per_class` included; None takes all (without a test part of
        its own, a quarter of each class is for testing).
      seed: of the split.
      class_names: the classes to take and their order; None or empty: the source's own.
      validation_per_class: images per class set aside from the training part.
      data_dir: where prepared TFDS sets lie; None is $TFDS_DATA_DIR or ~/tensorflow_datasets. Of a split file, the folder that
        its paths are relative to.

    Raises:
      UserError: one sentence on what is wrong with the source, its files, or the counts asked for.
    """
    if source == NAMES_ALONE:
        names, empty = check_class_names(class_names or ()), no_examples()
        return Task(source, names, empty, None, empty, _task_digest(names, empty, None, empty))
    name, names, pool, groups, test = _read(source, class_names, data_dir)
    if test is not None and not len(pool):
        if shots is not None or validation_per_class:
            raise UserError(
                f"task {source} has images to test on alone; leave task.shots at None and task.validation_per_class at 0."
            )
        return Task(name, names, pool, None, test, _task_digest(names, pool, None, test))
    split = split_pool(
        pool.labels,
        pool.ids,
        groups,
        names,
        shots=shots,
        validation_per_class=validation_per_class,
        seed=seed,
        test_from_pool=test is None,
        where=source,
    )
    train = pool.select(split.train)
    validation = pool.select(split.validation) if split.validation else None
    test = pool.select(split.test) if test is None else test
    return Task(name, names, train, validation, test, _task_digest(names, train, validation, test))


def pool_digest(source: str, *, class_names: Sequence[str] | None = None, data_dir: str | Path | None = None) -> str:
    """Returns a SHA-256 over the images that a task's training part is taken from (names, labels, content); see `load_task`."""
    _, _, pool, _, _ = _read(source, class_names, data_dir)
    if isinstance(pool.images, StoredImages):
        return digest(_rows(pool=pool))
    # The package's own photographs: encoded anew by each version of Pillow, but known by their names.
    return digest([pool.ids, pool.labels.tolist()])


def _task_digest(names: Sequence[str], train: Examples, validation: Examples | None, test: Examples) -> str:
    return digest({"class_names": list(names), **_rows(train=train, validation=validation, test=test)})


def _rows(**parts: Examples | None) -> dict[str, list[list[str | int]]]:
    """Returns the name, label and content of each image of the parts that are there."""
    present = {part: examples for part, examples in parts.items() if examples is not None}
    stored = [examples.images for examples in present.values() if isinstance(examples.images, StoredImages)]
    size = sum(images.size(i) for images in stored for i in range(len(images)))
    by_content = size <= FULL_CHECK_BYTES
    return {
        part: [
            [name, int(label), image_digest(examples.images, i, by_content)]
            for i, (name, label) in enumerate(zip(examples.ids, examples.labels, strict=True))
        ]
        for part, examples in present.items()
    }


_Parts = tuple[str, tuple[str, ...], Examples, Sequence[object], Examples | None]


def _read(source: str, class_names: Sequence[str] | None, data_dir: str | Path | None) -> _Parts:
    """Returns the name, class names, pool to split, groups of near duplicates, and test part (if it has one)."""
    kind, separator, rest = source.partition(":")
    if not separator or kind not in _KINDS[1:] or not rest:
        raise UserError(f"task.source={source!r} is not known; {choices(source, _FORMS)}")
    wanted = check_class_names(class_names) if class_names else None
    if kind == "builtin":
        return _builtin(rest, wanted)
    if kind == "folder":
        return _folder(expanded(rest), wanted)
    if kind == "split":
        names, pool, listed = read_split_file(expanded(rest), wanted, data_dir)
        return Path(rest).stem, names, pool, pool.ids, listed
    if kind == "tfds":
        from bridgejax.data.tfds_source import read_tfds

        name, names, pool, test = read_tfds(rest, wanted, data_dir)
        return name, names, pool, pool.ids, test
    from bridgejax.data.catalog_files import read_catalog_task

    names, pool, test = read_catalog_task(rest, wanted, data_dir)
    return rest, names, pool, pool.ids, test


def _builtin(name: str, wanted: tuple[str, ...] | None) -> _Parts:
    if name not in BUILTIN:
        raise UserError(f"task.source='builtin:{name}' is not known; {choices(name, BUILTIN)}")
    names, pool, groups = _read_asset(asset_folder(name))
    if wanted is None:
        return name, names, pool, groups, None
    chosen = match_names(wanted, {name: label for label, name in enumerate(names)}, f"a class of builtin:{name}")
    if len(chosen) < 2:
        raise UserError(f"task.class_names has only one class ({wanted[0]!r}); a classifier needs at least two.")
    keep = [i for i in range(len(pool)) if int(pool.labels[i]) in chosen]
    part = pool.select(keep)
    labels = np.asarray([chosen.index(int(label)) for label in part.labels], np.int32)
    return name, wanted, Examples(part.images, labels, part.ids), [groups[i] for i in keep], None


@functools.cache
def _read_asset(folder: Path) -> tuple[tuple[str, ...], Examples, tuple[object, ...]]:
    """Reads the photographs of the package. They are cut out on white, so each is widened to a square of white: a
    centre crop of a long one (a snake, a trumpet) would show its middle only."""
    index_file = folder / "index.json"
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
        images = tuple(encode_png(pad_to_square(decode_rgb((folder / row["file"]).read_bytes()))) for row in index["images"])
    except (OSError, ValueError, KeyError, SyntaxError) as error:
        raise UserError(f"the photographs in {folder} are missing or damaged ({error}); install bridgejax again.") from error
    names = tuple(index["classes"])
    labels = np.asarray([names.index(row["class"]) for row in index["images"]], np.int32)
    ids = tuple(row["file"] for row in index["images"])
    groups = tuple(row["group"] if row.get("group") is not None else row["file"] for row in index["images"])
    return names, Examples(images, labels, ids), groups


def _folder(root: Path, wanted: tuple[str, ...] | None) -> _Parts:
    root = find_folder(root)
    train_folder, test_folder = split_folders(root, wanted)
    if test_folder is None:
        names, pool = read_class_folders(root, wanted)
        check_class_names(names)
        return root.resolve().name, names, pool, pool.ids, None
    names, pool = read_class_folders(train_folder, wanted, prefix=f"{train_folder.name}/")
    check_class_names(names)
    unmatched = sorted(class_folders(test_folder).keys() ^ set(names)) if wanted is None else []
    if unmatched:
        with_, without = (train_folder, test_folder) if unmatched[0] in names else (test_folder, train_folder)
        raise UserError(f"folder {with_} has class {unmatched[0]!r}, which {without} lacks; give both the same class folders.")
    _, test = read_class_folders(test_folder, names, prefix=f"{test_folder.name}/")
    return root.resolve().name, names, pool, pool.ids, test
