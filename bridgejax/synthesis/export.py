"""Synthetic sets in the formats of other libraries: WebDataset, ImageFolder, Parquet. PNGs are copied, never compressed again.

`.bridgejax_export.json` says what an export is of, and whether it is finished; one that was killed is completed by the next
call. Equal sets give equal bytes (of Parquet, with equal versions of pyarrow).
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import secrets
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridgejax.errors import UserError, choices
from bridgejax.files import TEMPORARY_PREFIX, Place, StoreObject, canonical_json, commit, place, write_json, written_aside
from bridgejax.progress import progress
from bridgejax.synthesis.reader import StoredRecord, SyntheticSet, open_set
from bridgejax.synthesis.store import read_json, writing

if TYPE_CHECKING:
    import pyarrow

EXPORT_FILE = ".bridgejax_export.json"
METADATA_FILE = "metadata.jsonl"  # where `datasets` looks for what belongs to an ImageFolder's images
_ROWS_AT_ONCE = 100  # of a Parquet file: what a reader of one image must read
_TEXTS = ("class_name", "prompt", "negative_prompt", "generator")
Advance = Callable[[int], object]


def export_set(
    directory: str | Path | StoreObject, to: str | Path | StoreObject, file_format: str, *, per_class: int | None = None
) -> Place:
    """Writes a finished set in another format and returns where; a call that was killed is completed by the next one.

    Args:
      directory: the set's folder, or the URL of one on an object store.
      to: the folder to write, made if absent, or a URL.
      file_format: "webdataset": a tar per shard, of KEY.png, KEY.cls (the label) and KEY.json (all else).
        "imagefolder": CLASS/INDEX.png with metadata.jsonl, as torchvision and `datasets` read it (this machine only).
        "parquet": a file per shard with an image column of {bytes, path}, which `datasets` decodes.
      per_class: only the first so many images of each class; None writes all.

    Raises:
      UserError: there is no such format, the set is not finished or damaged, or the folder holds something else or cannot be
        written.
    """
    if file_format not in _WRITERS:
        raise UserError(f"--format {file_format!r} is not a format; {choices(file_format, _WRITERS)}")
    target = place(to)
    if isinstance(target, StoreObject) and file_format == "imagefolder":
        raise UserError(f"an ImageFolder is a file per image, too many for {target}; export webdataset or parquet there.")
    source = open_set(directory, per_class, verify=False)
    mark = {"format": file_format, "set": source.digest}
    there = read_json(target / EXPORT_FILE)
    if there is not None and {key: there.get(key) for key in mark} != mark:
        raise UserError(f"{target} holds another export; choose another folder or delete this one.")
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        if there is None:
            entries = (entry.name for entry in target.glob("*") if not entry.name.startswith(TEMPORARY_PREFIX))
            if other := next(entries, None):
                raise UserError(f"{target} holds {other}, which is of no export; choose a new or an empty folder.")
            write_json(target / EXPORT_FILE, {**mark, "finished": False})
        with progress(len(source), f"export {file_format}", "img") as bar:
            _WRITERS[file_format](source, target, bar.update)
        write_json(target / EXPORT_FILE, {**mark, "finished": True})
    return target


def _shard_files(source: SyntheticSet, target: Place, name: str, advance: Advance) -> Iterator[tuple[int, Place]]:
    """Yields the number and the file of each shard that is still to be written; `{}` in the name is the number."""
    for shard in range(len(source.shard_files)):
        file = target / name.format(f"{shard:05d}")
        if file.exists():  # whole, since it appears by rename or at the end of an upload
            advance(source.shard_length(shard))
        else:
            yield shard, file


# -- WebDataset ----------------------------------------------------------------------------------------------------------------


def _webdataset(source: SyntheticSet, target: Place, advance: Advance) -> None:
    _remove_asides(target)
    for shard, file in _shard_files(source, target, "train-{}.tar", advance):
        with written_aside(file) as aside:
            with tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
                for record in source.stored(shard):
                    key = f"{record['index']:08d}_{record['label']:06d}"
                    _add(tar, f"{key}.cls", str(record["label"]).encode())
                    _add(tar, f"{key}.json", canonical_json(_about(record)).encode())
                    _add(tar, f"{key}.png", record["image"])
                    advance(1)
            _put(aside, file)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)  # of the epoch and no owner: equal sets give equal files
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _about(record: StoredRecord) -> dict[str, object]:
    return {key: value for key, value in record.items() if key != "image"}


# -- ImageFolder ---------------------------------------------------------------------------------------------------------------


def _imagefolder(source: SyntheticSet, target: Place, advance: Advance) -> None:
    if not isinstance(target, Path):
        raise TypeError(target)
    folders = class_folders(source.class_names)
    for folder in folders:
        (target / folder).mkdir(exist_ok=True)
    _remove_asides(target)
    with written_aside(target / METADATA_FILE) as metadata:
        with open(metadata, "w", encoding="utf-8") as lines:
            for shard in range(len(source.shard_files)):
                for record in source.stored(shard):
                    name = f"{folders[record['label']]}/{record['index']:08d}.png"
                    _put_image(target / name, record["image"])
                    lines.write(json.dumps({"file_name": name, **_about(record)}, ensure_ascii=False) + "\n")
                    advance(1)
        _put(metadata, target / METADATA_FILE)


def _put_image(file: Path, content: bytes) -> None:
    """Writes an image whole unless it is there. It is not synced one by one: a crash of the machine shows in its size."""
    if file.exists() and file.stat().st_size == len(content):
        return
    aside = file.parent.parent / f"{TEMPORARY_PREFIX}{file.name}.{secrets.token_hex(4)}"
    try:
        aside.write_bytes(content)
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def class_folders(class_names: Sequence[str]) -> list[str]:
    """Returns a folder name for each class: its own, with "_" for what some file system or tool cannot have in a name.

    Names that would then be the same, or differ only in capitals, get the label behind them.
    """
    plain = [re.sub(r'[\x00-\x1f/\\<>:"|?*]', "_", name).strip(" .") or "class" for name in class_names]
    folded = [name.casefold() for name in plain]
    return [name if folded.count(name.casefold()) == 1 else f"{name}-{label}" for label, name in enumerate(plain)]


# -- Parquet -------------------------------------------------------------------------------------------------------------------


def _parquet(source: SyntheticSet, target: Place, advance: Advance) -> None:
    try:
        pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError("Parquet needs the package pyarrow; `pip install pyarrow`, or choose another --format.") from error
    schema = _schema(pa, source)
    number = len(source.shard_files)
    _remove_asides(target)
    for shard, file in _shard_files(source, target, f"train-{{}}-of-{number:05d}.parquet", advance):
        with written_aside(file) as aside:
            # PNG does not compress further, and statistics of its bytes serve nobody.
            with parquet.ParquetWriter(aside, schema, compression="none", write_statistics=False) as writer:
                for rows in _groups(source.stored(shard), _ROWS_AT_ONCE):
                    writer.write_table(pa.Table.from_pylist([_row(row) for row in rows], schema), row_group_size=len(rows))
                    advance(len(rows))
            _put(aside, file)


def _row(record: StoredRecord) -> dict[str, object]:
    name = f"{record['index']:08d}_{record['label']:06d}.png"
    return {**_about(record), "image": {"bytes": record["image"], "path": name}}


def _schema(pa: pyarrow, source: SyntheticSet) -> pyarrow.Schema:
    """Returns the columns, with the features by which `datasets` decodes images and names labels."""
    features: dict[str, object] = {
        "image": {"_type": "Image"},
        "label": {"names": list(source.class_names), "_type": "ClassLabel"},
    }
    features |= {key: {"dtype": "string", "_type": "Value"} for key in _TEXTS}
    features |= {key: {"dtype": "int64", "_type": "Value"} for key in ("seed", "index")}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [("image", image), ("label", pa.int64()), *((key, pa.string()) for key in _TEXTS)]
    columns += [(key, pa.int64()) for key in ("seed", "index")]
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)})


def _groups(records: Iterable[StoredRecord], size: int) -> Iterator[list[StoredRecord]]:
    group: list[StoredRecord] = []
    for record in records:
        group.append(record)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


# -- files ---------------------------------------------------------------------------------------------------------------------


def _remove_asides(target: Place) -> None:
    if isinstance(target, Path):
        for leftover in target.glob(f"{TEMPORARY_PREFIX}*"):
            leftover.unlink(missing_ok=True)


def _put(aside: Path, target: Place) -> None:
    with open(aside, "rb") as file:
        os.fsync(file.fileno())
    commit(aside, target)


_WRITERS: dict[str, Callable[[SyntheticSet, Place, Advance], None]] = {
    "webdataset": _webdataset,
    "imagefolder": _imagefolder,
    "parquet": _parquet,
}
