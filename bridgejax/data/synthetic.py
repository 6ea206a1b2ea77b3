"""Synthetic sets as labelled examples: the stored PNGs, unchanged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bridgejax.data.examples import Examples
from bridgejax.data.folders import match_name
from bridgejax.data.images import FULL_CHECK_BYTES
from bridgejax.data.records import bytes_span, decode_feature, feature_spans, record_files, records_of
from bridgejax.data.set_index import read_spans
from bridgejax.data.stored import RecordImages
from bridgejax.errors import UserError
from bridgejax.files import JSONObject, read_json_object


def synthetic_examples(
    directory: str | Path, class_names: Sequence[str] | None = None, per_class: int | None = None
) -> Examples:
    """Reads where the images of a finished synthetic set lie; the images themselves stay on disk until they are asked for.

    Sets of up to `FULL_CHECK_BYTES` have every record's checksum verified first; of larger ones the sidecars tell.

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
    sizes = [file.stat().st_size if file.exists() else -1 for file in files]
    small = sum(sizes) <= FULL_CHECK_BYTES
    known = _label_names(folder)
    table = None if small or -1 in sizes else _indexed(folder, info, len(known))
    if table is None:
        found, table = _scanned(folder, files, verify=small)
        known = known or sorted(found)
        number = {name: label for label, name in enumerate(known)}
        table[:, 1] = np.asarray([number.get(name, -1) for name in found], np.int64)[table[:, 1]]
    names = list(known) if class_names is None else list(class_names)
    labels = {match_name(name, known, f"a class of the synthetic set {folder}"): label for label, name in enumerate(names)}
    table = table[np.lexsort((table[:, 0], table[:, 1]))]
    chosen = []
    for name, label in labels.items():
        first, end = np.searchsorted(table[:, 1], [known.index(name), known.index(name) + 1])
        mine = table[first:end][:per_class].copy()
        if per_class is not None and len(mine) < per_class:
            raise UserError(
                f"class {name!r} of {folder} has {len(mine)} images, fewer than per_class={per_class}; generate more into it."
            )
        mine[:, 1] = label
        chosen.append(mine)
    table = np.concatenate(chosen)
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    spelled = list(labels)
    ids = tuple(f"{spelled[label]}/{index}" for index, label in zip(table[:, 0].tolist(), table[:, 1].tolist(), strict=True))
    return Examples(RecordImages(files, table[:, 2:]), table[:, 1].astype(np.int32), ids)


def _indexed(folder: Path, info: JSONObject, classes: int) -> npt.NDArray[np.int64] | None:
    """Returns int64 [n, 5] of index, class, file, first byte and end from the sidecars, None where they do not tell."""
    lengths = [int(length) for length in info["splits"][0]["shardLengths"]]
    places = read_spans(folder, lengths) if classes else None
    if places is None:
        return None
    index, label = np.divmod(np.arange(len(places)), classes)
    return np.concatenate([np.stack([index, label], axis=1), places], axis=1)


def _scanned(folder: Path, files: Sequence[Path], verify: bool) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Returns class names, and the columns of `_indexed` with positions among these, from the records themselves."""
    names: dict[str, int] = {}
    rows = []
    try:
        for number, file in enumerate(files):
            with records_of(file, verify=verify) as (data, spans):
                for span in spans:
                    features = feature_spans(data, span)
                    index = int(decode_feature(data, features["index"])[0])
                    name = bytes(data[slice(*bytes_span(data, features["class_name"]))]).decode()
                    label = names.setdefault(name, len(names))
                    rows.append((index, label, number, *bytes_span(data, features["image"])))
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder} is not a set that bridgejax generated; run `bridgejax generate` to make one.") from error
    return list(names), np.asarray(rows, np.int64).reshape(-1, 5)


def synthetic_captions(directory: str | Path) -> dict[str, str]:
    """Returns what a finished set says of its images: id → prompt and seed; ids and errors as of `synthetic_examples`."""
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
