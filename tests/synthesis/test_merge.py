"""Merged sets are what one call would have made; what would double or mix images is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bridgejax.errors import UserError
from bridgejax.synthesis import generate_set, merge_sets, open_set

OPTIONS = {"per_class": 3, "batch_size": 2, "steps": 3, "shard_size": 4, "template": ("a {}", "the {}")}


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def make(tmp_path, fake):
    def one(name: str, classes: list[str], **changes):
        return generate_set(tmp_path / name, pipeline=fake, class_names=classes, **OPTIONS | changes).directory

    return one


def test_sets_of_other_classes_become_the_set_of_all_classes_byte_for_byte(tmp_path, make):
    variants = {"c": ["red c", "blue c"]}
    a, b = make("a", ["x", "ü"]), make("b", ["c"], variants=variants)
    whole = make("whole", ["x", "ü", "c"], variants=variants)
    merged = merge_sets(tmp_path / "out", [a, b])
    assert content(tmp_path / "out") == content(whole)
    assert merged.digest == open_set(whole).digest
    # What a killed merge lacks is all that the next one makes.
    (tmp_path / "out" / "sidecars" / "00001.json").unlink()
    before = (tmp_path / "out" / "bridgejax_synthetic-train.tfrecord-00000").stat().st_mtime_ns
    merge_sets(tmp_path / "out", [a, b])
    assert content(tmp_path / "out") == content(whole)
    assert (tmp_path / "out" / "bridgejax_synthetic-train.tfrecord-00000").stat().st_mtime_ns == before


def test_parts_of_one_set_become_the_whole_set(tmp_path, make):
    whole = make("whole", ["x", "ü"], shard_size=2)
    for name, gone in (("a", "12"), ("b", "0")):
        shutil.copytree(whole, tmp_path / name)
        (tmp_path / name / "dataset_info.json").unlink()
        for shard in gone:
            (tmp_path / name / "sidecars" / f"0000{shard}.json").unlink()
    merge_sets(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    assert content(tmp_path / "out") == content(whole)
    with pytest.raises(UserError, match=r"shard 0 is in .*a and in .*whole, so each of its images would be there twice"):
        merge_sets(tmp_path / "again", [tmp_path / "a", whole])
    (tmp_path / "b" / "sidecars" / "00001.json").unlink()
    with pytest.raises(UserError, match=r"no part holds shard 1 \(1 of 3 are missing\)"):
        merge_sets(tmp_path / "again", [tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "again").exists()


def test_a_smaller_volume_is_the_beginning_of_a_larger_one(tmp_path, make):
    small, large = make("small", ["x", "ü"]), make("large", ["x", "ü"], per_class=7)
    plain = [{**r, "image": r["image"].tobytes()} for r in open_set(small)]
    assert [{**r, "image": r["image"].tobytes()} for r in open_set(large, per_class=3)] == plain
    assert open_set(large, per_class=3).digest == open_set(small).digest


def test_what_would_double_or_mix_images_is_refused(tmp_path, make):
    a = make("a", ["x", "y"])
    for number, (classes, changes, words) in enumerate(
        (
            (["y", "z"], {}, "class 'y' is in .*a and in .*, so each of its images would be there twice"),
            (["z"], {"steps": 4}, r"were not made alike \(steps differ\)"),
            (["z"], {"template": "{}"}, r"were not made alike \(templates differ\)"),
            (["z"], {"seed": 1}, r"were not made alike \(seed differ\)"),
            (["z"], {"per_class": 5}, "3 to 5 images per class; give per_class=3"),
        )
    ):
        with pytest.raises(UserError, match=words):
            merge_sets(tmp_path / "out", [a, make(f"b{number}", classes, **changes)])
    assert len(merge_sets(tmp_path / "out", [a, tmp_path / "b4"], per_class=3)) == 9
    with pytest.raises(UserError, match="named twice"):
        merge_sets(tmp_path / "out2", [a, a])
    with pytest.raises(UserError, match="absent holds no synthetic set"):
        merge_sets(tmp_path / "out2", [a, tmp_path / "absent"])
    assert not (tmp_path / "out2").exists()
