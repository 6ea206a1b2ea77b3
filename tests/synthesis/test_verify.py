"""A look at every checksum names what is wrong, and the next call makes exactly that anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridgejax.errors import UserError
from bridgejax.synthesis import generate_set, verify_set

OPTIONS = {"class_names": ["a", "b"], "per_class": 6, "batch_size": 2, "steps": 3}


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_damage_is_named_and_exactly_that_is_made_again(tmp_path, fake):
    generate_set(tmp_path, pipeline=fake, **OPTIONS)
    assert verify_set(tmp_path).whole
    before = content(tmp_path)
    shard = lambda number: tmp_path / f"bridgejax_synthetic-train.tfrecord-0000{number}"  # noqa: E731
    flipped = bytearray(shard(1).read_bytes())
    flipped[-20] ^= 4
    shard(1).write_bytes(flipped)
    shard(2).write_bytes(shard(2).read_bytes()[:-1])
    shard(3).unlink()
    (tmp_path / "sidecars" / "00004.json").write_text("{}")
    (tmp_path / "sidecars" / "00005.json").unlink()
    harmed = content(tmp_path)
    check = verify_set(tmp_path)
    assert not check.whole
    assert set(check.damaged) == {1, 2, 3, 4}
    assert (check.missing, check.shards) == ((5,), 6)
    text = "\n".join(check.lines())
    for words in (
        "does not match its checksum",
        "bytes instead of",
        "-00003 is missing",
        "00004.json cannot be read",
        "shards 5",
    ):
        assert words in text
    assert "1 of 6 shards are whole" in text
    assert content(tmp_path) == harmed
    fake.batches.clear()
    assert generate_set(tmp_path, pipeline=fake, **OPTIONS).images_made == 10
    assert content(tmp_path) == before
    assert verify_set(tmp_path).whole


def test_an_unfinished_set_is_not_whole(tmp_path, fake):
    generate_set(tmp_path, pipeline=fake, **OPTIONS)
    (tmp_path / "dataset_info.json").unlink()
    check = verify_set(tmp_path)
    assert not check.whole
    assert "not finished" in "\n".join(check.lines())
    with pytest.raises(UserError, match="absent holds no synthetic set"):
        verify_set(tmp_path / "absent")
