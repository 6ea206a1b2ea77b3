"""The boxed set of cut-outs: the same from the same arguments, no photograph in two parts, and boxes tight around objects."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from build_boxed_set import PHOTOS, build, compose, covered, cut_out  # noqa: E402

from bridgejax.data.boxed_images import read_boxed_images  # noqa: E402

COUNTS = {"train": 12, "validation": 4, "test": 6}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("boxed")
    lines = [build(root / name, COUNTS, side=96) for name in ("a", "b")]
    assert lines[0] == lines[1]
    return root


def test_the_same_arguments_give_the_same_set(made):
    files = sorted(path.relative_to(made / "a") for path in (made / "a").rglob("*.*"))
    assert len(files) == sum(COUNTS.values()) + 3
    assert all((made / "a" / file).read_bytes() == (made / "b" / file).read_bytes() for file in files)


def test_no_photograph_and_no_twin_is_in_two_parts(made):
    groups = {entry["file"]: entry["group"] for entry in json.loads((PHOTOS / "index.json").read_text())["images"]}
    used = [
        {groups[each["photograph"]] for each in json.loads((made / "a" / part / "annotations.json").read_text())["annotations"]}
        for part in COUNTS
    ]
    assert sum(map(len, used)) == len(set.union(*used))


def test_the_set_reads_and_boxes_hardly_overlap(made):
    for part, count in COUNTS.items():
        data = read_boxed_images(made / "a" / part, 96)
        assert len(data.images) == count
        assert len(data.categories) == 11
        content = json.loads((made / "a" / part / "annotations.json").read_text())
        for a in content["annotations"]:
            others = [b for b in content["annotations"] if b["image_id"] == a["image_id"] and b["id"] > a["id"]]
            assert all(covered(a["bbox"], b["bbox"]) <= 0.1 for b in others)


def test_a_cut_out_is_its_object_with_what_it_encloses():
    pixels = np.full((40, 60, 3), 255, np.uint8)
    pixels[5:35, 10:50] = (200, 20, 20)
    pixels[15:25, 20:30] = 255  # a window
    pixels[1, 1] = 0  # a speck
    found = cut_out(pixels)
    assert found.shape == (28, 38, 4)  # the outermost pixels are left out
    assert (found[..., 3] == 255).all()
    pixels[5:35, 28:32] = 255
    assert cut_out(pixels) is None  # two halves
    assert cut_out(np.full((9, 9, 3), 255, np.uint8)) is None


def test_a_box_is_where_its_object_is():
    from build_boxed_set import CutOut

    red = np.zeros((20, 30, 4), np.uint8)
    red[..., 0] = red[..., 3] = 255
    pixels, placed = compose({"red": [CutOut(red, "red", "")]}, 80, 1, np.random.default_rng(0))
    ((_, (left, top, width, height)),) = placed
    shown = (pixels == (255, 0, 0)).all(-1)
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    assert abs(rows[0] - top) <= 1
    assert abs(rows[-1] + 1 - top - height) <= 1
    assert abs(columns[0] - left) <= 1
    assert abs(columns[-1] + 1 - left - width) <= 1
    assert Image.fromarray(pixels).size == (80, 80)
