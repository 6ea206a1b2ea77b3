"""Tasks from the package, from folders and from TFDS; what is wrong with a source is said in one sentence."""

from __future__ import annotations

import re

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image
from prepared import write_prepared

from bridgejax.data import load_task
from bridgejax.data.images import decode_rgb
from bridgejax.data.stored import StoredImages
from bridgejax.data.tensorflow import import_tfds
from bridgejax.errors import UserError
from bridgejax.synthesis import generate_set


def test_the_photographs_of_the_package():
    task = load_task("builtin:tux_photos", shots=1, seed=3)
    assert len(task.class_names) == 11
    np.testing.assert_array_equal(task.train.counts(11), 1)
    assert task.test.counts(11).min() > 0
    image = decode_rgb(task.test.images[0])
    assert image.shape[0] == image.shape[1]
    assert load_task("builtin:tux_photos", shots=1, seed=3).digest == task.digest
    assert load_task("builtin:tux_photos", shots=1, seed=4).digest != task.digest
    two = load_task("builtin:tux_photos", shots=2, class_names=["road sign", "bird"])
    assert two.class_names == ("road sign", "bird")
    assert {i.split("/")[0] for i in two.train.select(np.flatnonzero(two.train.labels == 0)).ids} == {"road_sign"}


def test_one_folder_is_split_by_seed(make_folder):
    root = make_folder({"b c": 6, "a_<i>": 5, "ü": 7})
    (root / "README.txt").write_text("beside the class folders, anything may lie")
    task = load_task(f"folder:{root}", shots=2, seed=0)
    assert task.class_names == ("a_<i>", "b c", "ü")
    assert (len(task.train), len(task.test)) == (6, 12)
    assert not set(task.train.ids) & set(task.test.ids)
    for part in (task.train, task.test):
        for label, name in zip(part.labels, part.ids, strict=True):
            assert name.startswith(task.class_names[label] + "/")
    again = load_task(f"folder:{root}", shots=2, seed=0)
    assert again.train.ids == task.train.ids
    assert again.digest == task.digest
    turned = load_task(f"folder:{root}", shots=2, seed=0, class_names=["ü", "a <i>"])
    assert turned.class_names == ("ü", "a <i>")
    assert set(turned.train.ids) < set(task.train.ids)


def test_a_changed_image_changes_the_digest(make_folder):
    root = make_folder({"a": 4, "b": 4})
    before = load_task(f"folder:{root}", shots=1).digest
    (root / "a" / "0.png").write_bytes(encoded(picture(99)))
    assert load_task(f"folder:{root}", shots=1).digest != before


def test_train_and_test_folders_are_kept_apart(make_folder, tmp_path):
    root = tmp_path / "set"
    make_folder({"a": 4, "b": 5}, root / "train")
    make_folder({"a": 2, "b": 3}, root / "test")
    few = load_task(f"folder:{root}", shots=2, seed=1, validation_per_class=1)
    assert (len(few.train), len(few.validation), len(few.test)) == (2, 2, 5)
    assert {i.split("/")[0] for i in few.test.ids} == {"test"}
    assert len(load_task(f"folder:{root}").train) == 9
    make_folder({"c": 1}, root / "test")
    with pytest.raises(UserError, match=r"test has class 'c', which .*train lacks"):
        load_task(f"folder:{root}")
    assert load_task(f"folder:{root}", class_names=["b", "a"]).class_names == ("b", "a")


def test_a_class_may_be_called_train(make_folder):
    root = make_folder({"train": 3, "bus": 3})
    assert load_task(f"folder:{root}", shots=1).class_names == ("bus", "train")


@pytest.mark.parametrize(
    "parts", [("train", "test", "valid"), ("train", "val"), ("Train", "Test", "validation"), ("train", "valid")]
)
def test_train_and_test_are_parts_in_any_case_and_whatever_lies_beside_them(make_folder, tmp_path, parts):
    for count, part in enumerate(parts, 2):
        make_folder({"x": count, "y": count}, tmp_path / part)
    write(tmp_path / "docs" / "a.md", b"notes")
    (tmp_path / "extra").mkdir()
    write(tmp_path / parts[0] / "preview.png", encoded(picture(0)))
    write(tmp_path / parts[1] / "preview.png", encoded(picture(0)))
    task = load_task(f"folder:{tmp_path}")
    assert task.class_names == ("x", "y")
    assert (len(task.train), len(task.test)) == (4, 6)
    assert {name.partition("/")[0] for name in task.test.ids} == {parts[1]}
    make_folder({"x": 1, "y": 1}, tmp_path / "extra")
    with pytest.raises(UserError, match=rf"{parts[0]}/ and {parts[1]}/, but also images in extra/") as caught:
        load_task(f"folder:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_classes_may_be_called_train_and_test(make_folder):
    root = make_folder({"test": 3, "train": 3, "train/steam": 2, "bus": 3})
    task = load_task(f"folder:{root}", shots=1)
    assert task.class_names == ("bus", "test", "train")
    assert len(task.test) == 2 + 2 + 4


def test_a_test_part_without_class_folders_makes_no_classes_of_the_parts(make_folder, tmp_path):
    make_folder({"x": 2, "y": 2}, tmp_path / "train")
    write(tmp_path / "test" / "1.png", encoded(picture(0)))
    with pytest.raises(UserError, match=r"train has class 'x', which .*test lacks"):
        load_task(f"folder:{tmp_path}")


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: write(root / "a" / "x.png", b"not an image"), "x.png is not an image"),
        (lambda root: write(root / "a" / "x.jpg", b""), "x.jpg is an empty file"),
        (lambda root: write(root / "a" / "x.png", encoded(picture(0, 60, 60))[:-900]), "x.png is cut short"),
        (lambda root: write(root / "a" / "x.png", encoded(picture(0), "PCX")), "x.png is a PCX file"),
        (lambda root: write(root / "a" / "notes.txt", b"x"), "notes.txt is not an image file"),
        (lambda root: (root / "empty").mkdir(), "empty holds no images"),
    ],
)
def test_what_is_wrong_in_a_folder_is_named(make_folder, spoil, words):
    root = make_folder({"a": 3, "b": 3})
    load_task(f"folder:{root}", shots=1)
    spoil(root)
    with pytest.raises(UserError, match=words) as caught:
        load_task(f"folder:{root}", shots=1)
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_task(make_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    make_folder({"only": 3}, tmp_path / "one")
    make_folder({"a": 2, "b": 2}, tmp_path / "half" / "train")
    for name, words in (
        ("absent", "not found"),
        ("empty", "is empty"),
        ("file", "is a file"),
        ("one", "only one class"),
        ("half", "no test/"),
    ):
        with pytest.raises(UserError, match=words):
            load_task(f"folder:{tmp_path / name}", shots=1)


def test_names_sources_and_shots_that_do_not_fit(make_folder):
    root = make_folder({"cat": 3, "dog": 3})
    for options, words in (
        ({"class_names": ["cat", "dgo"]}, "did you mean 'dog'"),
        ({"class_names": ["cat"]}, "only one class"),
        ({"shots": 3}, "class 'cat'.*3 images.*task.shots=3"),
    ):
        with pytest.raises(UserError, match=words):
            load_task(f"folder:{root}", **{"shots": 1} | options)
    make_folder({"under_score": 3})
    for source in (f"folder:{root}", "builtin:tux_photos"):
        twice = ["under score", "under_score"] if source.startswith("folder") else ["road_sign", "road sign"]
        with pytest.raises(UserError, match=f"twice, as '{twice[0]}' and as '{twice[1]}'; name each once"):
            load_task(source, shots=1, class_names=twice)
    for source in ("cifar10", "foldr:x", "builtin:tux_photo", "tfds:"):
        with pytest.raises(UserError, match=rf"^task\.source='{source}' is not known; "):
            load_task(source)


def test_every_kind_of_image_file_becomes_rgb_on_white(tmp_path):
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, :3] = (200, 100, 50, 255)
    on_white = np.full((4, 6, 3), 255, np.uint8)
    on_white[:, :3] = (200, 100, 50)
    for kind in ("PNG", "WEBP"):
        np.testing.assert_array_equal(decode_rgb(encoded(rgba, kind, lossless=True)), on_white)
    palette = Image.fromarray(rgba).quantize(4)
    palette.save(tmp_path / "x.gif", save_all=True, append_images=[Image.new("P", (6, 4))])
    assert decode_rgb((tmp_path / "x.gif").read_bytes()).shape == (4, 6, 3)
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    np.testing.assert_array_equal(decode_rgb(encoded(grey, "BMP")), np.repeat(grey[..., None], 3, 2))
    deep = (np.arange(24, dtype=np.uint16) * 2700).reshape(4, 6)
    assert abs(int(decode_rgb(encoded(deep))[3, 5, 0]) - 2700 * 23 / 257) <= 1
    turned = Image.fromarray(picture(0, 4, 6)).getexif()
    turned[0x0112] = 6
    assert decode_rgb(encoded(picture(0, 4, 6), "JPEG", exif=turned)).shape == (6, 4, 3)
    assert decode_rgb(encoded(picture(0, 100, 50)), shorter_side=20).shape == (40, 20, 3)


def test_a_prepared_tfds_set_is_read_from_disk(tmp_path):
    def solid(prompts, *, seeds, height, width, **options):
        return np.full((len(prompts), height, width, 3), 0.5, np.float32)

    home = tmp_path / "tfds" / "my_set"
    names = ["a b", "c", "ü"]
    generate_set(home / "1.0.0", pipeline=solid, class_names=names, per_class=4, height=8, width=8, batch_size=4)
    for source in ("tfds:my_set", "tfds:my_set:1.0.0", f"tfds:{home / '1.0.0'}"):
        task = load_task(source, shots=1, data_dir=tmp_path / "tfds")
        assert task.class_names == tuple(names)
        assert (len(task.train), len(task.test)) == (3, 9)
    part = load_task("tfds:my_set", shots=1, data_dir=tmp_path / "tfds", class_names=["ü", "a b"])
    assert decode_rgb(part.train.images[0]).shape == (8, 8, 3)
    np.testing.assert_array_equal(part.test.counts(2), 3)
    with pytest.raises(UserError, match=r"is not prepared under .*run `python -c .*download_and_prepare\(\)"):
        load_task("tfds:cifar10", data_dir=tmp_path / "tfds")
    for version in ("*", "1", "1.*.*"):
        with pytest.raises(UserError, match=rf"tfds:my_set:{re.escape(version)}' asks for version .* such as 1\.0\.0"):
            load_task(f"tfds:my_set:{version}", data_dir=tmp_path / "tfds")
    with pytest.raises(UserError, match=r"task\.data_dir=5 is not a folder"):
        load_task("tfds:my_set", data_dir=5)


def test_images_of_record_files_stay_on_disk_until_they_are_asked_for(tmp_path):
    folder = write_prepared(tmp_path, "own", "1.0.0", {"train": 3, "test": 2}, ["a", "b"])
    task = load_task("tfds:own", data_dir=tmp_path)
    assert isinstance(task.train.images, StoredImages)
    theirs = import_tfds().builder_from_directory(str(folder)).as_dataset(split="test").as_numpy_iterator()
    for position, row in enumerate(theirs):
        np.testing.assert_array_equal(decode_rgb(task.test.images[position]), row["image"])
        assert task.test.labels[position] == row["label"]
    (shard,) = folder.glob("*test*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut short"):
        list(task.test.images)
    with pytest.raises(UserError, match="prepare the set again"):
        load_task("tfds:own", data_dir=tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match=r"record file .* could not be read"):
        task.test.images[0]
