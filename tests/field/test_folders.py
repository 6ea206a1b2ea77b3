"""Folders of images as data sets, systems and people leave them: parts and classes, what lies beside them, names in Unicode."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgejax.config import check_class_names, default_config, differences, to_plain
from bridgejax.data import load_task
from bridgejax.errors import UserError
from bridgejax.prompts import class_phrases, format_prompt

CLASSES = ("cat", "dog", "eel")


def fill(root: Path, *folders: str, count: int = 3) -> Path:
    """Writes so many images into each folder below a root."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.random.default_rng(hash((folder, number)) % 2**32).integers(0, 256, (6, 8, 3), np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format="PNG")
            (root / folder / f"{number}.png").write_bytes(buffer.getvalue())
    return root


def parts(root: Path, *names: str) -> Path:
    """Writes three class folders into each part; the parts differ in how many images they hold."""
    for number, name in enumerate(names):
        fill(root, *(f"{name}/{label}" for label in CLASSES), count=3 + number)
    return root


def refused(source: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load_task(f"folder:{source}", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The pairs of published data sets and tools: ImageNet, Keras, Kaggle, Intel scenes, COCO, YOLO, GLUE-like names, Udemy.
PAIRS = [
    ("train", "test"),
    ("train", "val"),
    ("train", "valid"),
    ("train", "validation"),
    ("train", "dev"),
    ("train", "eval"),
    ("train", "evaluation"),
    ("train", "testing"),
    ("train", "tests"),
    ("train", "holdout"),
    ("Training", "Testing"),
    ("TRAIN", "TEST"),
    ("Train", "Validation"),
    ("training", "validation"),
    ("seg_train", "seg_test"),
    ("train2017", "val2017"),
    ("training_set", "test_set"),
    ("trainset", "testset"),
    ("images_train", "images_val"),
    ("asl_alphabet_train", "asl_alphabet_test"),
    ("my train", "my-test"),
]


@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_parts_are_known_by_their_structure_and_their_names(tmp_path, names):
    """The kind: two top folders that hold the same class folders and say which is for training."""
    task = load_task(f"folder:{parts(tmp_path, *names)}")
    assert task.class_names == CLASSES
    assert (len(task.train), len(task.test)) == (9, 12)
    assert {name.split("/")[0] for name in task.test.ids} == {names[1]}


def test_the_test_part_goes_before_others_and_parts_may_lie_deeper(tmp_path):
    """The kind: three parts; archives that repeat the folder's name inside; a part without class folders for prediction."""
    task = load_task(f"folder:{parts(tmp_path / 'three', 'train', 'dev', 'test')}")
    assert (len(task.train), len(task.test)) == (9, 15)
    fill(parts(tmp_path / "intel", "seg_train/seg_train", "seg_test/seg_test"), "seg_pred/seg_pred")
    task = load_task(f"folder:{tmp_path / 'intel'}")
    assert (task.class_names, len(task.train), len(task.test)) == (CLASSES, 9, 12)
    fill(parts(tmp_path / "kaggle", "train", "val"), "test")
    task = load_task(f"folder:{tmp_path / 'kaggle'}")
    assert (len(task.train), len(task.test)) == (9, 12)
    assert "has class 'cat', which" in refused(fill(parts(tmp_path / "flat", "train"), "test"))


@pytest.mark.parametrize(
    "names", [("color", "grayscale"), ("amazon/images", "dslr/images"), ("a", "b"), ("val", "test")], ids="+".join
)
def test_folders_that_hold_the_same_classes_and_do_not_say_which_part_they_are(tmp_path, names):
    """The kind: variants and domains of a data set (PlantVillage, Office-31), parts with other names, parts without a training
    part. They are no classes; naming them as classes makes them classes."""
    words = refused(parts(tmp_path, *names))
    assert "hold the same class folders (cat, dog, eel)" in words
    top = [name.split("/")[0] for name in names]
    assert f"folder:{tmp_path / sorted(top)[0]}" in words
    assert load_task(f"folder:{tmp_path}", shots=1, class_names=top).class_names == tuple(top)


@pytest.mark.parametrize("names", [("train", "test"), ("train", "test1"), ("Training", "Validation", "Testing")], ids="+".join)
def test_parts_that_hold_images_alone_are_no_classes(tmp_path, names):
    """The kind: parts whose labels are in file names or tables (Kaggle's dogs and cats); asked for as classes, they are."""
    words = refused(fill(tmp_path, *names))
    assert f"({', '.join(sorted(names))}) are called like parts" in words
    assert load_task(f"folder:{tmp_path}", shots=1, class_names=names).class_names == names


def test_class_folders_that_hold_parts(tmp_path):
    """The kind: classes first, parts below them, whose images must not be mixed; or the folder above several data sets."""
    for name in ("cat", "dog"):
        fill(tmp_path, f"{name}/train", f"{name}/test")
    assert "holds parts such as test, train" in refused(tmp_path)


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "bus"),
        ("train", "train/steam", "test", "bus"),
        ("bullet_train", "test_tube"),
        ("bullet_train/red", "bullet_train/blue", "test_tube/long", "test_tube/short"),
        ("cat/images", "dog/images"),  # Tiny ImageNet
        ("mammals/cat", "mammals/dog", "fish/eel", "fish/cod"),
        ("cat/indoor", "cat/outdoor", "dog"),
    ],
    ids=" ".join,
)
def test_classes_stay_classes(tmp_path, folders):
    """The kind: classes that are called like parts, or that hold folders of their own."""
    tops = tuple(sorted({folder.split("/")[0] for folder in folders}))
    assert load_task(f"folder:{fill(tmp_path, *folders)}", shots=1).class_names == tops


LEFT_BEHIND = (
    *(".DS_Store", "._0.png", ".ipynb_checkpoints/0.png", "Thumbs.db", "thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r"),
    *("@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/._0.png", "lost+found/x", "$RECYCLE.BIN/x.png", ".Trash-1000/x.png"),
    *("#recycle/x.png", "@Recycle/x.png", "System Volume Information/x", ".git/x", "__pycache__/x.pyc", "~snapshot/x.png"),
)


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_systems_leave_behind_is_no_class_and_no_image(tmp_path, name):
    """The kind: files and folders of macOS, Windows, network disks (Synology, QNAP, NetApp), notebooks and version control, at
    the top, in a part and in a class folder."""
    parts(tmp_path, "train", "test")
    before = load_task(f"folder:{tmp_path}")
    for place in (tmp_path, tmp_path / "train", tmp_path / "train" / "cat", tmp_path / "test"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"left by a system")
    after = load_task(f"folder:{tmp_path}")
    assert (after.class_names, after.digest) == (before.class_names, before.digest)


def test_what_bridgejax_wrote_inside_the_data_is_no_class(tmp_path):
    """The kind: the workdir of a command (at any stage, with images in it), a generated set, a classifier."""
    fill(tmp_path, "cat", "dog")
    before = load_task(f"folder:{tmp_path}", shots=1)
    fill(tmp_path / "work", "sheets")
    (tmp_path / "work" / "config.json").write_text(json.dumps(to_plain(default_config())))
    for folder, file in (("set", "dataset_info.json"), ("model", "model.safetensors")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}")
    after = load_task(f"folder:{tmp_path}", shots=1)
    assert (after.class_names, after.digest) == (("cat", "dog"), before.digest)


def test_a_folder_too_high_or_too_low_names_the_one_that_looks_like_the_task(tmp_path):
    """The kind: the folder above the task (an unpacked archive, with notes beside it), two above, a class folder, and a class
    folder of a part."""
    task = fill(tmp_path / "archive" / "data", "cat", "dog")
    (tmp_path / "archive" / "docs").mkdir()
    for source in (tmp_path / "archive", tmp_path):
        assert f"{task} in it looks like the task, so give task.source=folder:{task}." in refused(source)
    assert f"holds no class folders; {task} above it looks like the task" in refused(task / "cat")
    whole = parts(tmp_path / "whole", "train", "test")
    assert f"give task.source=folder:{whole}." in refused(whole / "train" / "cat")
    assert load_task(f"folder:{whole / 'train'}", shots=1).class_names == CLASSES
    assert "has only one class ('cat')" in refused(fill(tmp_path / "one", "cat"))


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


NAMES = ("café", "crème brûlée", "zürich_see", "한국", "Ångström")


def test_folders_whose_names_are_not_utf_8(tmp_path):
    """The kind: archives from systems with Latin-1 or Shift-JIS names, unpacked as they are."""
    fill(tmp_path, "dog", "cat")
    os.rename(tmp_path / "cat", os.fsencode(tmp_path) + b"/caf\xe9")
    assert r"'caf\udce9' is not UTF-8" in refused(tmp_path, shots=1)


@pytest.mark.parametrize("place", [".", "train", "test", "train/cat", "train/fox", "train/cat/9.png"])
def test_links_to_what_is_not_there_are_named(tmp_path, place):
    """The kind: symbolic links of a task whose targets are gone: none of its parts, classes or images is passed over."""
    root = parts(tmp_path / "task", "train", "test")
    link = root / place
    if link.is_dir():
        shutil.rmtree(link)
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=re.escape(f"{link} is a link to {tmp_path / 'gone'}, which is missing")):
        load_task(f"folder:{root}")


def test_names_are_matched_in_nfc(tmp_path):
    """The kind: decomposed names (macOS, archives made there) against composed ones (keyboards), in folders, class lists,
    parts, phrases, prompts, configs and the path itself; Latin letters, Hangul and the Ångström sign."""
    fill(tmp_path / "mac" / "train", *map(nfd, NAMES))
    fill(tmp_path / "mac" / "test", *NAMES, count=2)
    task = load_task(f"folder:{tmp_path / 'mac'}")
    assert task.class_names == tuple(sorted(NAMES))
    assert (len(task.train), len(task.test)) == (15, 10)
    for given in (NAMES, tuple(map(nfd, NAMES))):
        chosen = load_task(f"folder:{tmp_path / 'mac'}", class_names=given)
        assert chosen.class_names == NAMES
        np.testing.assert_array_equal(chosen.train.counts(5), 3)
    assert check_class_names(["\u212bngstr\u00f6m"]) == ("Ångström",)
    assert format_prompt("a {}", nfd("café_au lait")) == "a café au lait"
    assert class_phrases("café", {nfd("café"): ("bistro",)}) == class_phrases(nfd("café"), {"café": ("bistro",)}) == ("bistro",)
    old, new = to_plain(default_config()), to_plain(default_config())
    old["task"]["class_names"], new["task"]["class_names"] = [nfd("café")], ["café"]
    assert differences(old, new) == []
    moved = fill(tmp_path / nfd("données"), "a", "b")
    assert load_task(f"folder:{tmp_path / 'données'}", shots=1).train.ids == load_task(f"folder:{moved}", shots=1).train.ids


def test_a_split_does_not_depend_on_how_letters_are_composed(tmp_path):
    """The kind: the same data set copied to another system."""
    for form, root in ((str, tmp_path / "nfc"), (nfd, tmp_path / "nfd")):
        for name in NAMES[:2]:
            (root / form(name)).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (4, 4), (number, 0, 0)).save(root / form(name) / form(f"é{number}.png"))
    tasks = [load_task(f"folder:{tmp_path / name}", shots=2) for name in ("nfc", "nfd")]
    assert tasks[0].digest == tasks[1].digest


def test_names_that_are_one_name_in_nfc_are_named(tmp_path):
    """The kind: collisions, of folders, class names, files of a class and classes with phrases."""
    fill(tmp_path / "folders", "café", nfd("café"), "dog")
    assert r"('cafe\u0301' and 'caf\xe9')" in refused(tmp_path / "folders", shots=1)
    fill(tmp_path / "files", "cat", "dog")
    for name in ("é.png", nfd("é.png")):
        (tmp_path / "files" / "cat" / name).write_bytes((tmp_path / "files" / "cat" / "0.png").read_bytes())
    assert "rename one of them" in refused(tmp_path / "files", shots=1)
    with pytest.raises(UserError, match="composed in two ways"):
        check_class_names(["café", nfd("café")])
    config = default_config()
    config.prompts.variants = {"café": ("bistro",), nfd("café"): ("bar",)}
    from bridgejax.config import check_config

    with pytest.raises(UserError, match=r"prompts\.variants holds .* composed in two ways"):
        check_config(config)


def test_names_of_prepared_and_generated_sets_are_matched_in_nfc(tmp_path):
    """The kind: labels that a set on disk records, TFDS sets and synthetic sets alike."""
    from bridgejax.data import synthetic_examples
    from bridgejax.synthesis import generate_set

    def solid(prompts, *, seeds, height, width, **options):
        return np.full((len(prompts), height, width, 3), 0.5, np.float32)

    folder = tmp_path / "own" / "1.0.0"
    generate_set(folder, pipeline=solid, class_names=[nfd("café"), "dog"], per_class=3, height=8, width=8, batch_size=3)
    for name in ("café", nfd("café")):
        np.testing.assert_array_equal(synthetic_examples(folder, ["dog", name]).counts(2), 3)
        task = load_task("tfds:own", shots=1, data_dir=tmp_path, class_names=["dog", name])
        assert task.class_names == ("dog", "café")
