"""A set opens in TFDS without bridgejax, by both of its doors."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from bridgejax.synthesis import generate_set, tfds_files

NAMES = ["a b", "ü/<b>", "x_y"]


@pytest.fixture
def made(tmp_path, fake):
    return generate_set(tmp_path / "set", pipeline=fake, class_names=NAMES, per_class=4, batch_size=5, negative_prompt="")


def same(row, record):
    np.testing.assert_array_equal(row["image"], record["image"])
    for key in ("label", "seed", "index"):
        assert int(row[key]) == record[key]
    for key in ("class_name", "prompt", "negative_prompt", "generator"):
        value = row[key]
        assert (value.decode() if isinstance(value, bytes) else value) == record[key]


def test_both_as_dataset_and_as_data_source_give_the_records(made):
    from bridgejax.data.tensorflow import import_tfds

    tfds = import_tfds()
    builder = tfds.builder_from_directory(str(made.directory))
    assert builder.info.features["label"].names == NAMES
    assert builder.info.splits["train"].num_examples == 12
    records = {record["seed"]: record for record in made}
    rows = list(builder.as_dataset(split="train").as_numpy_iterator())
    assert len(rows) == 12
    for row in rows:
        same(row, records[int(row["seed"])])
    assert len(list(builder.as_dataset(split="train[25%:]", as_supervised=True))) == 9
    source = builder.as_data_source("train")
    assert len(source) == 12
    for row in source:
        same(row, records[int(row["seed"])])


def test_the_files_are_those_that_tfds_writes(tmp_path, made):
    from bridgejax.data.tensorflow import import_tfds

    tfds = import_tfds()
    builder = tfds.builder_from_directory(str(made.directory))
    builder.info.write_to_directory(str(tmp_path))
    for name in ("features.json", "dataset_info.json"):
        ours, theirs = (json.loads((folder / name).read_text()) for folder in (made.directory, tmp_path))
        for key in ("moduleName", "redistributionInfo"):
            ours.pop(key, None)
            theirs.pop(key, None)
        assert ours == theirs
    assert (tmp_path / tfds_files.LABELS_FILE).read_text() == (made.directory / tfds_files.LABELS_FILE).read_text()


def test_making_and_reading_a_set_needs_no_tensorflow(tmp_path, fake_file):
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets", "ml_collections", "diffusers"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.path[:0] = [{str(fake_file.parent)!r}, {str(fake_file.parents[2])!r}]
from fake_pipeline import FakePipeline
from bridgejax.synthesis import generate_set, open_set
from bridgejax.data import synthetic_examples
generate_set({str(tmp_path)!r}, pipeline=FakePipeline(), class_names=["a", "b"], per_class=2)
assert len(list(open_set({str(tmp_path)!r}))) == 4
assert len(synthetic_examples({str(tmp_path)!r})) == 4
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


def test_a_large_set_opens_from_its_sidecars_alone_and_the_same(tmp_path, fake, monkeypatch):
    from bridgejax.data import synthetic, synthetic_examples

    generate_set(tmp_path, pipeline=fake, class_names=["b", "a", "c"], per_class=5, batch_size=2, steps=3, shard_size=4)
    scanned = synthetic_examples(tmp_path, ["a", "b"], per_class=4)
    monkeypatch.setattr(synthetic, "FULL_CHECK_BYTES", 0)
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "records_of", None)  # no record is read
        indexed = synthetic_examples(tmp_path, ["a", "b"], per_class=4)
    assert indexed.ids == scanned.ids
    assert indexed.labels.tolist() == scanned.labels.tolist()
    assert list(indexed.images) == list(scanned.images)
    # Without one of them, as in sets of earlier versions, the records tell.
    sidecar = json.loads((tmp_path / "sidecars" / "00001.json").read_text())
    del sidecar["images"]
    (tmp_path / "sidecars" / "00001.json").write_text(json.dumps(sidecar))
    assert synthetic_examples(tmp_path, ["a", "b"], per_class=4).ids == scanned.ids
