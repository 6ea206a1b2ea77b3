"""Synthetic sets as labelled examples: the stored PNGs, unchanged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bridgejax.data.examples import Examples
from bridgejax.data.folders import match_name
from bridgejax.data.records import decode_example, read_records, record_files
from bridgejax.errors import UserError


def synthetic_examples(
    directory: str | Path, class_names: Sequence[str] | None = None, per_class: int | None = None
) -> Examples:
    """Reads a finished synthetic set.

    Args:
      directory: its folder.
      class_names: the task's class names, whose positions become the labels; classes of the set that are not named are
        left out. None keeps the set's own.
      per_class: take the images with the lowest indices of each class, so many; None takes all.

    Returns:
      The examples, ordered by (index, label), with ids `CLASS NAME/INDEX`.

    Raises:
      UserError: the folder holds no finished set, a shard is damaged, or a class is missing or has too few images.
    """
    folder = Path(directory)
    try:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no finished synthetic set; run `bridgejax generate` on it first.") from error
    rows: list[tuple[int, str, bytes]] = []
    try:
        for file in record_files(folder, info):
            for payload in read_records(file, verify=True):
                record = decode_example(payload)
                number, word, image = record["index"][0], record["class_name"][0], record["image"][0]
                rows.append((int(number), _bytes(word).decode(), _bytes(image)))
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder} is not a set that bridgejax generated; run `bridgejax generate` to make one.") from error
    known = _label_names(folder) or sorted({name for _, name, _ in rows})
    names = list(known) if class_names is None else list(class_names)
    labels = {match_name(name, known, f"a class of the synthetic set {folder}"): label for label, name in enumerate(names)}
    chosen: list[tuple[int, int, str, bytes]] = []
    for name, label in labels.items():
        mine = sorted((row for row in rows if row[1] == name), key=lambda row: row[0])
        if per_class is not None and len(mine) < per_class:
            raise UserError(
                f"class {name!r} of {folder} has {len(mine)} images, fewer than per_class={per_class}; generate more into it."
            )
        chosen += [(index, label, f"{name}/{index}", image) for index, _, image in mine[:per_class]]
    chosen.sort(key=lambda row: row[:2])
    return Examples(
        tuple(row[3] for row in chosen),
        np.asarray([row[1] for row in chosen], np.int32),
        tuple(row[2] for row in chosen),
    )


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"expected bytes, found {type(value).__name__}")
    return value


def _label_names(folder: Path) -> list[str]:
    try:
        text = (folder / "label.labels.txt").read_text(encoding="utf-8")
    except OSError:
        return []
    return [name for name in text.split("\n") if name]
