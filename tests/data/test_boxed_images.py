"""Folders of COCO's format: what is read, what is refused, and batches that are a function of seed and number."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from bridgejax.data.boxed_images import boxed_batches, read_boxed_images
from bridgejax.errors import UserError
from tests.small_boxed_set import write_boxed_part


@pytest.fixture
def folder(tmp_path):
    return write_boxed_part(tmp_path / "train", 3)


def changed(folder, change):
    """Writes the annotations with a change."""
    content = json.loads((folder / "annotations.json").read_text())
    change(content)
    (folder / "annotations.json").write_text(json.dumps(content))


def test_images_fit_and_boxes_follow(folder):
    Image.fromarray(np.full((50, 100, 3), 255, np.uint8)).save(folder / "0.png")

    def change(content):
        content["images"][0] |= {"width": 100, "height": 50}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] != 10]
        content["annotations"].append({"id": 99, "image_id": 10, "category_id": 7, "bbox": [50, 10, 50.5, 40], "iscrowd": 1})

    changed(folder, change)
    data = read_boxed_images(folder, 32)
    assert data.categories == ((3, "disc"), (7, "square"))
    assert data.images.shape == (3, 32, 32, 3)
    assert (data.images[0, :16] == 255).all()
    assert (data.images[0, 16:] == 127).all()
    assert data.labels.tolist() == [[1, -1], [0, 1], [0, 1]]
    np.testing.assert_allclose(data.boxes[0, 0], [16, 3.2, 32, 16])
    assert data.difficult.tolist() == [[True, False], [False, False], [False, False]]
    assert all((batch["box_label"] == -1).any() for batch in itertools.islice(boxed_batches(data, 3, 0), 2))


def test_batches_repeat_and_pass_through_all_images(folder):
    data = read_boxed_images(folder, 64)
    first, second = (list(itertools.islice(boxed_batches(data, 2, seed), 9)) for seed in (5, 5))
    other = list(itertools.islice(boxed_batches(data, 2, 6), 9))
    for a, b in zip(first, second, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other, strict=True))
    rows = [row for batch in first for row in batch["image"]]
    twice = [(k, turned) for k in range(3) for turned in (data.images[k], data.images[k][:, ::-1])]
    seen = [next(k for k, image in twice if np.array_equal(row, image)) for row in rows]
    assert all(sorted(seen[k : k + 3]) == [0, 1, 2] for k in range(0, 18, 3))
    mirrored = [not np.array_equal(row, data.images[k]) for row, k in zip(rows, seen, strict=True)]
    assert 0 < sum(mirrored) < 18
    boxes = [box for batch in first for box in batch["boxes"]]
    for turned, k, found, row in zip(mirrored, seen, boxes, rows, strict=True):
        expected = data.boxes[k][:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [64, 0, 64, 0] if turned else data.boxes[k]
        np.testing.assert_allclose(found, expected)
        left, top, right, bottom = (int(x) for x in found[1])
        assert (row[(top + bottom) // 2, (left + right) // 2] == (240, 230, 20)).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content.update(annotations=[]), "holds no boxes"),
        (lambda content: content.pop("images"), "no list of objects `images`"),
        (lambda content: content.update(categories=[]), "`categories` is empty"),
        (lambda content: content["categories"].append({"id": 3, "name": "ball"}), "a whole number of its own as id"),
        (lambda content: content["annotations"][0].update(category_id=5), "names category_id 5, which `categories` does not"),
        (lambda content: content["annotations"][0].update(image_id=[1]), r"names image_id \[1\], which `images` does not"),
        (lambda content: content["annotations"][1].update(bbox=[60, 0, 9, 9]), "leaves its image of 64 × 64 pixels"),
        (lambda content: content["annotations"][1].update(bbox=[-3, 0, 9, 9]), "leaves its image"),
        (lambda content: content["annotations"][1].update(bbox=[3, 3, 0, 9]), "width and height must be above 0"),
        (lambda content: content["annotations"][1].update(bbox=[3, 3, float("nan"), 9]), "all four finite"),
        (lambda content: content["annotations"][1].update(bbox=[3, 3, 9]), "give left, top, width and height"),
        (
            lambda content: content["images"][2].update(file_name="9.png"),
            "9.png, which annotations.json names, cannot",
        ),
        (lambda content: content["images"][2].update(width=65), r"64 × 64 pixels, but .* says \(65, 64\)"),
    ],
)
def test_a_wrong_set_gets_one_sentence(folder, change, sentence):
    changed(folder, change)
    with pytest.raises(UserError, match=sentence):
        read_boxed_images(folder, 32)


def test_a_missing_part_and_a_damaged_image_are_named(folder):
    with pytest.raises(UserError, match=r"nowhere/annotations.json is missing; give a folder with annotations.json"):
        read_boxed_images(folder / "nowhere", 32)
    (folder / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1.png is not an image"):
        read_boxed_images(folder, 32)
