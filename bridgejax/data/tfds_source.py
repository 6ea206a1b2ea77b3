"""Prepared TFDS data sets, read from disk alone."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bridgejax.data.catalog import INFO_FILE, VERSION, CatalogTask, split_version, spoken_names, task_of_tfds
from bridgejax.data.examples import Examples, no_examples
from bridgejax.data.folders import match_names
from bridgejax.data.images import FULL_CHECK_BYTES
from bridgejax.data.records import bytes_span, decode_feature, feature_spans, records_of
from bridgejax.data.stored import RecordImages
from bridgejax.data.tensorflow import import_tfds
from bridgejax.errors import UserError
from bridgejax.files import expanded

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

_TEST_SPLITS = ("test", "validation", "val")


def read_tfds(
    name: str, class_names: Sequence[str] | None, data_dir: str | Path | None, task: CatalogTask | None = None
) -> tuple[str, tuple[str, ...], Examples, Examples | None]:
    """Reads the training and the test part of a prepared set.

    Args:
      name: NAME or NAME/CONFIG, with :VERSION, /VERSION or neither, or the path of a folder with dataset_info.json.
      class_names: the classes to take and their order, as the set records them or as the catalogue says them; None takes all.
        If the set records no names (its labels are "0", "1", …), as many names as it has labels name them in that order.
      data_dir: where prepared sets lie.
      task: the catalogue's task that the set must be of. None takes the one that has a set of the name and labels found
        there, with its splits, names and left-out classes; or else the set's train split, its test (or else validation)
        split, and its own names.

    Returns:
      The task's or else the set's name, the class names, the training examples and the test examples (None if the set has
      none).

    Raises:
      UserError: the set is not there (says how to prepare it), has no image or no class label, or is not the task's.
    """
    strict = task is not None
    folder = find_prepared(name, data_dir, task)
    tfds = import_tfds()
    try:
        builder = tfds.builder_from_directory(str(folder))
    except Exception as error:  # whatever TFDS raises for files that it cannot make sense of
        raise UserError(f"{folder} could not be opened by TFDS ({_first_line(error)}); prepare the set again.") from error
    task = task or task_of_tfds(builder.info.full_name)
    image_key, label_key = _find_features(tfds, builder, folder)
    recorded = tuple(builder.info.features[label_key].names)
    spoken = spoken_names(task, recorded) if task is not None else None
    if task is not None and spoken is None:
        if strict:
            table = list(task.table)
            unknown = next((label for label in recorded if label not in table), recorded[0] if recorded else "")
            what = f"{len(recorded)} classes" if len(recorded) != len(table) else f"a class {unknown!r}"
            raise UserError(
                f"{folder} has {what}, but task:{task.name} is a set of {len(table)}, from {table[0]!r} to {table[-1]!r}; "
                f"prepare {task.tfds} again."
            )
        task = None
    labels, names = _labels(name if task is None or not strict else f"task:{task.name}", recorded, spoken, class_names)
    if len(names) < 2:
        raise UserError(f"tfds:{name} has only one class ({names[0]!r}); a classifier needs at least two.")
    splits = builder.info.splits
    train_split = "train" if task is None else task.train
    usual = next((split for split in _TEST_SPLITS if split in splits), None)
    test_split = usual if task is None else task.test
    for part in (train_split, test_split):
        for wanted in (split.partition("[")[0] for split in _joined(part)):
            if wanted not in splits:
                there = ", ".join(splits)
                who = f"tfds:{name} has" if task is None else f"{folder}, the data of task:{task.name}, has"
                advice = "choose a set that has one" if task is None else "prepare the set again"
                raise UserError(f"{who} no split named {wanted!r} (it has {there}); {advice}.")
    parts: list[Examples | None] = []
    for split in (train_split, test_split):
        examples = _read(tfds, builder, _joined(split), image_key, label_key, labels) if split else None
        if examples is not None and (missing := np.flatnonzero(examples.counts(len(names)) == 0)).size:
            raise UserError(f"tfds:{name} has no image of class {names[missing[0]]!r} in split {split!r}; leave the class out.")
        parts.append(examples)
    own = split_version(builder.info.full_name)[0] if _is_path(name) else name
    return own if task is None else task.name, names, no_examples() if parts[0] is None else parts[0], parts[1]


def _joined(split: str | None) -> list[str]:
    return split.split("+") if split else []


def _labels(
    where: str, recorded: Sequence[str], spoken: Sequence[str] | None, class_names: Sequence[str] | None
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Returns recorded label → label of the task, and the task's class names."""
    known = list(recorded) if spoken is None else list(spoken)
    if class_names is None:
        named = [label for label, name in enumerate(known) if name]
        return {label: place for place, label in enumerate(named)}, tuple(known[label] for label in named)
    names = tuple(class_names)
    unnamed = spoken is None and all(name.isdigit() for name in recorded)
    if unnamed and not set(names) <= set(recorded):
        if len(names) != len(recorded):
            raise UserError(
                f"{where} records no class names and has {len(recorded)} classes, but task.class_names lists {len(names)}; "
                f"give {len(recorded)} names in the order of its labels."
            )
        return {label: label for label in range(len(names))}, names
    places = {name: label for label, name in enumerate(known) if name}
    for label, name in enumerate(recorded):
        if known[label]:
            places.setdefault(name, label)
    matched = match_names(names, places, f"a class of {where}")
    spelled = names if spoken is None else tuple(known[label] for label in matched)
    return {label: place for place, label in enumerate(matched)}, spelled


def _is_path(name: str) -> bool:
    return (expanded(name) / INFO_FILE).is_file()


def tfds_base(data_dir: str | Path | None) -> Path:
    """Returns the folder where prepared sets lie: the one given, $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: the value given is not a path.
    """
    if data_dir is not None and not isinstance(data_dir, str | Path):
        raise UserError(f"task.data_dir={data_dir!r} is not a folder; give its path as text, or None for TFDS's default.")
    return expanded(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def prepare_command(name: str, base: Path) -> str:
    """Returns the shell command that prepares a set where there is a network."""
    call = f"tfds.builder({name!r}, data_dir={str(base)!r}).download_and_prepare()"
    return f'python -c "import tensorflow_datasets as tfds; {call}"'


def prepared_folders(name: str, data_dir: str | Path | None) -> list[Path]:
    """Returns the folders of all prepared versions (of all configs, if none is named)."""
    path, version = split_version(name)
    root = tfds_base(data_dir) / path
    files = sorted(root.glob(f"{version or '*'}/{INFO_FILE}")) or sorted(root.glob(f"*/{version or '*'}/{INFO_FILE}"))
    return [file.parent for file in files if re.fullmatch(VERSION, file.parent.name)]


def find_prepared(name: str, data_dir: str | Path | None, task: CatalogTask | None = None) -> Path:
    """Returns the folder of a prepared set; where none is named, the newest version and the catalogue's config.

    Args:
      name: as for `read_tfds`.
      data_dir: where prepared sets lie.
      task: the catalogue's task, of whose version the set must be.

    Raises:
      UserError: there is none, or several other configs and none is named, or only other versions, or the version is not a
        version number.
    """
    if _is_path(name):
        return expanded(name)
    base = tfds_base(data_dir)
    path, version = split_version(name)
    if version and not re.fullmatch(VERSION, version):
        raise UserError(
            f"task.source='tfds:{name}' asks for version {version!r}; give one such as 1.0.0, or none for the newest."
        )
    root = base / path
    if (root / INFO_FILE).is_file():
        return root
    known = task_of_tfds(path)
    usual = known.tfds if known is not None and known.tfds is not None else path
    folders = prepared_folders(name, data_dir)
    folders = [folder for folder in folders if folder.parent == base / usual] or folders
    if not folders:
        full = f"{usual}:{version}" if version else usual
        raise UserError(
            f"tfds:{name} is not prepared under {base}; where there is a network run "
            f"`{prepare_command(full, base)}`, then copy the folder here or set task.data_dir."
        )
    configs = sorted({folder.parent for folder in folders})
    if len(configs) > 1:
        shown = ", ".join(f"tfds:{path}/{config.name}" for config in configs[:6])
        raise UserError(f"tfds:{name} is prepared in several configs; name one of {shown}.")
    fitting = [folder for folder in folders if task is None or folder.name.partition(".")[0] == task.version]
    if not fitting and task is not None:
        there = ", ".join(folder.name for folder in folders)
        raise UserError(
            f"task:{task.name} is of version {task.version}.x.x of {path}, but {root} has {there}; run "
            f"`{prepare_command(name, base)}`, or take what is there as it is with task.source=tfds:{path}:{folders[-1].name}."
        )
    return max(fitting, key=lambda folder: tuple(int(part) for part in folder.name.split(".")))


def _find_features(tfds: ModuleType, builder: DatasetBuilder, folder: Path) -> tuple[str, str]:
    """Returns the keys of the image and the class label: by type, then by the usual names."""
    features = builder.info.features
    supervised = builder.info.supervised_keys or ()
    keys = []
    for kind, usual in ((tfds.features.Image, "image"), (tfds.features.ClassLabel, "label")):
        candidates = [key for key in features if isinstance(features[key], kind)]
        if not candidates:
            there = ", ".join(features)
            raise UserError(f"{folder} has no {usual} among its features ({there}); choose an image classification set.")
        preferred = [key for key in candidates if key in supervised] or [key for key in candidates if key == usual]
        preferred = preferred or candidates
        keys.append(preferred[0])
    return keys[0], keys[1]


def _read(
    tfds: ModuleType, builder: DatasetBuilder, splits: list[str], image_key: str, label_key: str, wanted: dict[int, int]
) -> Examples:
    """Reads the labels, and the encoded images or where they lie, in file order; nothing is decoded.

    With TFRecord, TFDS's default, the images stay on disk; with other formats they are read into memory.
    """
    try:
        if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
            return _read_records(builder, splits, image_key, label_key, wanted)
        images: list[bytes] = []
        labels: list[int] = []
        ids: list[str] = []
        decoders = {image_key: tfds.decode.SkipDecoding()}
        for split in splits:
            if builder.info.file_format in tfds.core.FileFormat.with_random_access():
                rows: Iterable[Mapping[str, npt.NDArray[np.generic]]] = builder.as_data_source(split, decoders=decoders)
            else:
                config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
                rows = builder.as_dataset(split=split, decoders=decoders, read_config=config).as_numpy_iterator()
            for number, row in enumerate(rows):
                label = wanted.get(int(row[label_key]))
                if label is not None:
                    images.append(bytes(row[image_key]))
                    labels.append(label)
                    ids.append(f"{split}/{number:08d}")
    except Exception as error:  # TFDS's own errors for damaged or missing shards
        raise UserError(f"{builder.data_dir} could not be read ({_first_line(error)}); prepare the set again.") from error
    return Examples(tuple(images), np.asarray(labels, np.int32), tuple(ids))


def _read_records(
    builder: DatasetBuilder, splits: list[str], image_key: str, label_key: str, wanted: dict[int, int]
) -> Examples:
    """Reads the labels of TFRecord files, which TFDS stores under the features' names, and where the images lie.

    Files of up to `FULL_CHECK_BYTES` have every record's checksum verified.
    """
    files: list[Path] = []
    places: list[tuple[int, int, int]] = []
    labels: list[int] = []
    ids: list[str] = []
    parts = {split: builder.info.splits[split].file_instructions for split in splits}
    names = {str(part.filename) for instructions in parts.values() for part in instructions}
    small = sum(os.path.getsize(name) for name in names) <= FULL_CHECK_BYTES
    for split in splits:
        number = 0
        for part in parts[split]:
            files.append(Path(part.filename))
            end = number + part.take
            with records_of(part.filename, verify=small) as (data, spans):
                for span in itertools.islice(spans, part.skip, part.skip + part.take):
                    features = feature_spans(data, span)
                    label = wanted.get(int(decode_feature(data, features[label_key])[0]))
                    if label is not None:
                        places.append((len(files) - 1, *bytes_span(data, features[image_key])))
                        labels.append(label)
                        ids.append(f"{split}/{number:08d}")
                    number += 1
            if number != end:
                raise ValueError(f"{part.filename} has {part.take - end + number} records of {part.take}")
    return Examples(RecordImages(files, np.asarray(places)), np.asarray(labels, np.int32), tuple(ids))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
