"""Synthetic sets as labelled examples: the stored PNGs, unchanged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bridgejax.data.examples import Examples
from bridgejax.data.folders import match_name
from bridgejax.data.images import FULL_CHECK_BYTES
from bridgejax.data.records import bytes_span, decode_feature, feature_spans, record_files, records_of
from bridgejax.data.stored import RecordImages
from bridgejax.errors import UserError
from bridgejax.files import read_json_object


def synthetic_examples(
    directory: str | Path, class_names: Sequence[str] | None = None, per_class: int | None = None
) -> Examples:
    """Reads where the images of a finished synthetic set lie; the images themselves stay on disk until they are asked for.

    Sets of up to `FULL_CHECK_BYTES` have every record's checksum verified first.

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
    files = record_files(folder, info)
    small = sum(file.stat().st_size for file in files if file.exists()) <= FULL_CHECK_BYTES
    rows: dict[str, list[tuple[int, int, int, int]]] = {}  # class name → (index, file number, first byte, end)
    try:
        for number, file in enumerate(files):
            with records_of(file, verify=small) as (data, spans):
                for span in spans:
                    features = feature_spans(data, span)
                    index = int(decode_feature(data, features["index"])[0])
                    name = bytes(data[slice(*bytes_span(data, features["class_name"]))]).decode()
                    rows.setdefault(name, []).append((index, number, *bytes_span(data, features["image"])))
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder} is not a set that bridgejax generated; run `bridgejax generate` to make one.") from error
    known = _label_names(folder) or sorted(rows)
    names = list(known) if class_names is None else list(class_names)
    labels = {match_name(name, known, f"a class of the synthetic set {folder}"): label for label, name in enumerate(names)}
    chosen: list[tuple[int, int, int, int, int]] = []  # index, label, file, first byte, end
    for name, label in labels.items():
        mine = sorted(rows.get(name, ()))
        if per_class is not None and len(mine) < per_class:
            raise UserError(
                f"class {name!r} of {folder} has {len(mine)} images, fewer than per_class={per_class}; generate more into it."
            )
        chosen += [(index, label, file, start, end) for index, file, start, end in mine[:per_class]]
    chosen.sort()
    spelled = {label: name for name, label in labels.items()}
    ids = tuple(f"{spelled[label]}/{index}" for index, label, *_ in chosen)
    table = np.asarray(chosen, np.int64).reshape(-1, 5)
    return Examples(RecordImages(files, table[:, 2:]), table[:, 1].astype(np.int32), ids)


def synthetic_captions(directory: str | Path) -> dict[str, str]:
    """Returns what a finished synthetic set says of its images: id, as `synthetic_examples` gives it → prompt and seed.

    Raises:
      UserError: as `synthetic_examples`.
    """
    folder, captions = Path(directory), {}
    for file in record_files(folder, read_json_object(folder / "dataset_info.json")):
        with records_of(file) as (data, spans):
            for span in spans:
                features = feature_spans(data, span)
                name, prompt = (
                    bytes(data[slice(*bytes_span(data, features[key]))]).decode() for key in ("class_name", "prompt")
                )
                index, seed = (int(decode_feature(data, features[key])[0]) for key in ("index", "seed"))
                captions[f"{name}/{index}"] = f"{prompt} · seed {seed}"
    return captions


def _label_names(folder: Path) -> list[str]:
    try:
        text = (folder / "label.labels.txt").read_text(encoding="utf-8")
    except OSError:
        return []
    return [name for name in text.split("\n") if name]
