"""Tasks whose parts are listed in a JSON file, as CoOp publishes them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pictures import encoded

from bridgejax.data import load_task
from bridgejax.errors import UserError

NAMES = ("river", "annual crop")


@pytest.fixture
def split_file(tmp_path):
    """Four training and two test images of each of two classes in images/, and one to validate on that does not exist."""
    lists = {"train": [], "val": [["gone.png", 0, "river"]], "test": []}
    for part, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(NAMES):
            for number in range(count):
                path = tmp_path / "images" / name / f"{part}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(np.full((8, 8, 3), 10 * number + 100 * label, np.uint8)))
                lists[part].append([f"{name}/{path.name}", label, name])
    file = tmp_path / "split.json"
    file.write_text(json.dumps(lists))
    return file


def test_the_lists_are_the_parts(split_file):
    task = load_task(f"split:{split_file}")
    assert task.class_names == NAMES
    assert task.test.ids == ("river/test0.png", "river/test1.png", "annual crop/test0.png", "annual crop/test1.png")
    assert task.train.counts(2).tolist() == [4, 4]
    shots = load_task(f"split:{split_file}", shots=1, seed=3, class_names=("annual crop", "river"))
    assert (shots.class_names, shots.train.labels.tolist()) == (NAMES[::-1], [0, 1])
    assert shots.test.ids[0] == "annual crop/test0.png"
    elsewhere = split_file.rename(split_file.parent.parent / f"{split_file.parent.name}.json")
    moved = load_task(f"split:{elsewhere}", data_dir=split_file.parent / "images")
    assert moved.digest == task.digest


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda lists: lists.pop("test"), "has no list 'test' of"),
        (lambda lists: lists["train"].append(["river/train0.png", "0", "river"]), "has no list 'train' of"),
        (lambda lists: lists["train"].append(["river/train0.png", 0, "lake"]), "calls label 0 both 'river' and 'lake'"),
        (
            lambda lists: lists["test"].append(["river/none.png", 0, "river"]),
            "none.png, which the split file lists, was not found",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_named(split_file, change, sentence):
    lists = json.loads(split_file.read_text())
    change(lists)
    split_file.write_text(json.dumps(lists))
    with pytest.raises(UserError, match=sentence):
        load_task(f"split:{split_file}")
    with pytest.raises(UserError, match="could not be read"):
        load_task(f"split:{split_file.with_name('no.json')}")
