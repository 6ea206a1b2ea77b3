"""Tasks written as folders of files."""

from __future__ import annotations

import pytest
from PIL import Image

from bridgejax.data import export_task, load_task
from bridgejax.errors import UserError

CLASSES = ("bird", "fish")


def test_the_folder_is_the_same_task(tmp_path):
    original = load_task("builtin:tux_photos", shots=2, seed=3, class_names=CLASSES)
    folder = export_task("builtin:tux_photos", tmp_path / "photos", shots=2, seed=3, class_names=CLASSES)
    task = load_task(f"folder:{folder}")
    assert task.class_names == CLASSES
    for part, wanted in ((task.train, original.train), (task.test, original.test)):
        assert part.counts(2).tolist() == wanted.counts(2).tolist()
        assert sorted(map(bytes, part.images)) == sorted(map(bytes, wanted.images))
    before = sorted(folder.rglob("*"))
    assert export_task("builtin:tux_photos", folder, shots=2, seed=3, class_names=CLASSES) == folder
    assert sorted(folder.rglob("*")) == before
    export_task("builtin:tux_photos", folder, shots=1, class_names=CLASSES)  # another call replaces what it wrote
    assert len(list(folder.glob("train/*/*"))) == 2


def test_files_may_be_linked(tmp_path):
    for name in CLASSES:
        (tmp_path / "mine" / name / "deeper").mkdir(parents=True)
        for number in range(4):
            place = "deeper" if number % 2 else "."
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "mine" / name / place / f"{number // 2}.png")
    folder = export_task(f"folder:{tmp_path / 'mine'}", tmp_path / "linked", link=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 8  # equal names in deeper folders do not meet
    assert all(path.is_symlink() and path.resolve().is_relative_to(tmp_path / "mine") for path in files)
    assert load_task(f"folder:{folder}").train.counts(2).tolist() == [3, 3]


def test_what_lies_there_is_not_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else than train and test; give a new or an empty folder"):
        export_task("builtin:tux_photos", tmp_path, shots=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
