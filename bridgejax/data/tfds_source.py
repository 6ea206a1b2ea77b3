"""Prepared TFDS data sets, read from disk alone."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bridgejax.data.examples import Examples
from bridgejax.data.folders import match_name
from bridgejax.data.tensorflow import import_tfds
from bridgejax.errors import UserError

_INFO = "dataset_info.json"
_TEST_SPLITS = ("test", "validation", "val")


def read_tfds(
    name: str, class_names: Sequence[str] | None, data_dir: str | Path | None
) -> tuple[str, tuple[str, ...], Examples, Examples | None]:
    """Reads the train split and, if there is one, the test (or else validation) split of a prepared set into memory.

    Args:
      name: NAME, NAME/CONFIG, NAME:VERSION, NAME/CONFIG:VERSION, or the path of a folder with dataset_info.json.
      class_names: the classes to take and their order; None takes all.
      data_dir: where prepared sets lie.

    Returns:
      The name, the class names, the training examples and the test examples (None if the set has no such split).

    Raises:
      UserError: the set is not there (says how to prepare it), or has no image or no class label.
    """
    folder = find_prepared(name, data_dir)
    tfds = import_tfds()
    try:
        builder = tfds.builder_from_directory(str(folder))
    except Exception as error:  # whatever TFDS raises for files that it cannot make sense of
        raise UserError(f"{folder} could not be opened by TFDS ({_first_line(error)}); prepare the set again.") from error
    image_key, label_key = _find_features(tfds, builder, folder)
    known = tuple(builder.info.features[label_key].names)
    names = known if class_names is None else tuple(class_names)
    if len(names) < 2:
        raise UserError(f"tfds:{name} has only one class ({names[0]!r}); a classifier needs at least two.")
    wanted = {known.index(match_name(one, known, f"a class of tfds:{name}")): label for label, one in enumerate(names)}
    splits = builder.info.splits
    if "train" not in splits:
        raise UserError(f"tfds:{name} has no split named 'train' (it has {', '.join(splits)}); choose a set that has one.")
    test_split = next((split for split in _TEST_SPLITS if split in splits), None)
    train = _read_split(tfds, builder, "train", image_key, label_key, wanted)
    test = _read_split(tfds, builder, test_split, image_key, label_key, wanted) if test_split else None
    for part, split in ((train, "train"), (test, test_split)):
        if part is not None and (missing := np.flatnonzero(part.counts(len(names)) == 0)).size:
            raise UserError(f"tfds:{name} has no image of class {names[missing[0]]!r} in split {split!r}; leave the class out.")
    return Path(name).name if _is_path(name) else name, names, train, test


def _is_path(name: str) -> bool:
    return (Path(name).expanduser() / _INFO).is_file()


def find_prepared(name: str, data_dir: str | Path | None) -> Path:
    """Returns the folder of a prepared set; the newest version if none is named.

    Raises:
      UserError: there is none, or several configs and none is named.
    """
    if _is_path(name):
        return Path(name).expanduser()
    base = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    path, _, version = name.partition(":")
    root = base / path
    found = sorted(root.glob(f"{version or '*'}/{_INFO}")) or sorted(root.glob(f"*/{version or '*'}/{_INFO}"))
    if (root / _INFO).is_file():
        return root
    folders = [file.parent for file in found if re.fullmatch(r"\d+\.\d+\.\d+", file.parent.name)]
    if not folders:
        call = f"tfds.builder({name!r}, data_dir={str(base)!r}).download_and_prepare()"
        raise UserError(
            f"tfds:{name} is not prepared under {base}; where there is a network run "
            f'`python -c "import tensorflow_datasets as tfds; {call}"`, then copy the folder here or set task.data_dir.'
        )
    configs = sorted({folder.parent for folder in folders})
    if len(configs) > 1:
        shown = ", ".join(f"tfds:{path}/{config.name}" for config in configs[:6])
        raise UserError(f"tfds:{name} is prepared in several configs; name one of {shown}.")
    return max(folders, key=lambda folder: tuple(int(part) for part in folder.name.split(".")))


def _find_features(tfds: Any, builder: Any, folder: Path) -> tuple[str, str]:
    """Returns the keys of the image and the class label: by type, then by the usual names."""
    features = builder.info.features
    supervised = builder.info.supervised_keys or ()
    keys = []
    for kind, usual in ((tfds.features.Image, "image"), (tfds.features.ClassLabel, "label")):
        found = [key for key in features if isinstance(features[key], kind)]
        if not found:
            there = ", ".join(features)
            raise UserError(f"{folder} has no {usual} among its features ({there}); choose an image classification set.")
        preferred = [key for key in found if key in supervised] or [key for key in found if key == usual] or found
        keys.append(preferred[0])
    return keys[0], keys[1]


def _read_split(tfds: Any, builder: Any, split: str, image_key: str, label_key: str, wanted: dict[int, int]) -> Examples:
    """Reads encoded images in file order; TFDS decodes nothing."""
    decoders = tfds.decode.PartialDecoding({image_key: True, label_key: True}, {image_key: tfds.decode.SkipDecoding()})
    if builder.info.file_format in tfds.core.FileFormat.with_tf_data():
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        rows: Any = builder.as_dataset(split=split, decoders=decoders, read_config=config).as_numpy_iterator()
    else:
        rows = builder.as_data_source(split, decoders=decoders)
    images: list[bytes] = []
    labels: list[int] = []
    ids: list[str] = []
    try:
        for number, row in enumerate(rows):
            label = wanted.get(int(row[label_key]))
            if label is not None:
                images.append(bytes(row[image_key]))
                labels.append(label)
                ids.append(f"{split}/{number:08d}")
    except UserError:
        raise
    except Exception as error:  # TensorFlow's own errors for damaged or missing shards
        raise UserError(f"{builder.data_dir} could not be read ({_first_line(error)}); prepare the set again.") from error
    return Examples(tuple(images), np.asarray(labels, np.int32), tuple(ids))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
