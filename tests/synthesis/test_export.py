"""Exports, read back by libraries that know nothing of bridgejax."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgejax.errors import UserError
from bridgejax.synthesis import export as export_module
from bridgejax.synthesis import export_set, generate_set

NAMES = ["a b", "ü/<b>", "u"]


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def made(tmp_path, fake):
    return generate_set(tmp_path / "set", pipeline=fake, class_names=NAMES, per_class=3, batch_size=2, steps=3, shard_size=4)


def same(about: dict, png: bytes, record: dict) -> None:
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), record["image"])
    for key in ("label", "class_name", "prompt", "seed", "index", "generator", "negative_prompt"):
        assert about[key] == record[key]


def test_webdataset_tars_hold_every_image_beside_its_label_and_text(tmp_path, made):
    export_set(made.directory, tmp_path / "out", "webdataset")
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert [tar.name for tar in tars] == ["train-00000.tar", "train-00001.tar", "train-00002.tar"]
    samples: dict[str, dict[str, bytes]] = {}
    for file in tars:
        with tarfile.open(file) as tar:
            for entry in tar:
                key, _, kind = entry.name.partition(".")
                assert (entry.mtime, entry.uid) == (0, 0)
                samples.setdefault(key, {})[kind] = tar.extractfile(entry).read()
    records = list(made)
    assert len(samples) == len(records) == 9
    for parts, record in zip(samples.values(), records, strict=True):
        same(json.loads(parts["json"]), parts["png"], record)
        assert int(parts["cls"]) == record["label"]


def test_an_image_folder_has_a_folder_for_each_class_and_metadata(tmp_path, made):
    export_set(made.directory, tmp_path / "out", "imagefolder")
    lines = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    for line, record in zip(lines, list(made), strict=True):
        same(line, (tmp_path / "out" / line["file_name"]).read_bytes(), record)
    folders = sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir())
    assert folders == sorted(["a b", "ü__b_", "u"])
    assert all(len(list((tmp_path / "out" / name).iterdir())) == 3 for name in folders)


def test_class_folders_are_apart_on_every_file_system():
    names = ["Crane", "crane", "a/b", "a:b", "..", "fine"]
    assert export_module.class_folders(names) == ["Crane-0", "crane-1", "a_b-2", "a_b-3", "class", "fine"]


def test_parquet_files_are_what_datasets_reads_as_images_and_named_labels(tmp_path, made):
    parquet = pytest.importorskip("pyarrow.parquet")
    export_set(made.directory, tmp_path / "out", "parquet")
    files = sorted((tmp_path / "out").glob("*.parquet"))
    assert files[0].name == "train-00000-of-00003.parquet"
    rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
    for row, record in zip(rows, list(made), strict=True):
        same(row, row["image"]["bytes"], record)
    features = json.loads(parquet.read_schema(files[0]).metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"]["names"] == NAMES


@pytest.mark.parametrize("file_format", ["webdataset", "imagefolder", "parquet"])
def test_an_export_that_was_killed_is_completed_and_the_same(tmp_path, made, monkeypatch, file_format):
    export_set(made.directory, tmp_path / "whole", file_format)
    calls = []

    def killed(*arguments: object) -> None:
        calls.append(1)
        raise KeyboardInterrupt

    real = export_module.commit
    monkeypatch.setattr(export_module, "commit", lambda *a: killed() if len(calls) or a[1].name.endswith("1.tar") else real(*a))
    if file_format != "webdataset":
        monkeypatch.setattr(export_module, "commit", killed)
    with pytest.raises(KeyboardInterrupt):
        export_set(made.directory, tmp_path / "out", file_format)
    monkeypatch.undo()
    assert content(tmp_path / "out") != content(tmp_path / "whole")
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.*") if p.suffix in (".tar", ".png")}
    export_set(made.directory, tmp_path / "out", file_format)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert kept == {p: p.stat().st_mtime_ns for p in kept}


def test_a_part_of_the_set_and_wrong_wishes(tmp_path, made):
    export_set(made.directory, tmp_path / "out", "imagefolder", per_class=2)
    assert len((tmp_path / "out" / "metadata.jsonl").read_text().splitlines()) == 6
    with pytest.raises(UserError, match="out holds another export"):
        export_set(made.directory, tmp_path / "out", "imagefolder")
    with pytest.raises(UserError, match=r"set holds .*, which is of no export"):
        export_set(made.directory, made.directory, "parquet")
    with pytest.raises(UserError, match=r"--format 'tar' is not a format; .*webdataset"):
        export_set(made.directory, tmp_path / "x", "tar")
    assert not (tmp_path / "x").exists()
