"""The embedded files are what they say they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bridgejax
from bridgejax.identity import file_digest

ASSETS = Path(bridgejax.__file__).parent / "assets"
COUNTS = {
    "bird": 35,
    "fish": 11,
    "flower": 24,
    "fruit": 26,
    "insect": 9,
    "mammal": 64,
    "musical_instrument": 11,
    "road_sign": 21,
    "tool": 13,
    "vegetable": 18,
    "vehicle": 19,
}


@pytest.mark.parametrize("name", ["tux_photos", "efficientnet_lite0", "sentences"])
def test_checksums_licence_and_provenance(name: str) -> None:
    folder = ASSETS / name
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    listed = {line.split("  ", 1)[1]: line.split("  ", 1)[0] for line in lines}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(listed) == present - {"SHA256SUMS"}
    assert {"LICENSE", "PROVENANCE.md"} <= present
    assert all(file_digest(folder / file) == digest for file, digest in listed.items())


def test_all_assets_together_stay_below_40_mib() -> None:
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) <= 40 * 2**20


def test_photographs_are_counted_small_and_readable() -> None:
    index = json.loads((ASSETS / "tux_photos" / "index.json").read_text(encoding="utf-8"))
    assert index["classes"] == list(COUNTS)
    assert Counter(row["class"] for row in index["images"]) == COUNTS
    assert len({row["file"] for row in index["images"]}) == sum(COUNTS.values())
    for row in index["images"]:
        assert row["file"].split("/")[0] == row["class"]
        assert row["caption"]
        with Image.open(ASSETS / "tux_photos" / row["file"]) as image:
            assert image.mode == "RGB"
            assert max(image.size) <= 128


def test_groups_hold_the_near_duplicates_and_stay_within_a_class() -> None:
    rows = json.loads((ASSETS / "tux_photos" / "index.json").read_text(encoding="utf-8"))["images"]
    group = {row["file"]: row["group"] for row in rows}
    assert group["road_sign/xing_school.jpg"] == group["road_sign/xing_school_mirror.jpg"]
    assert len({group[f"road_sign/stoplight_0{i}.jpg"] for i in ("1_red", "2_yellow", "3_green")}) == 1
    sizes = Counter(group.values())
    assert 6 <= sum(size - 1 for size in sizes.values()) <= 12
    classes = {number: {row["class"] for row in rows if row["group"] == number} for number in sizes}
    assert all(len(names) == 1 for names in classes.values())


def test_pictures_that_are_pixel_for_pixel_close_share_a_group() -> None:
    rows = json.loads((ASSETS / "tux_photos" / "index.json").read_text(encoding="utf-8"))["images"]
    small = []
    for row in rows:
        with Image.open(ASSETS / "tux_photos" / row["file"]) as image:
            small.append(np.asarray(image.resize((16, 16)), np.float32) / 255)
    pixels = np.stack(small)
    mirrored = pixels[:, :, ::-1]
    for first in range(len(rows)):
        for second in range(first):
            gap = min(np.abs(pixels[first] - pixels[second]).mean(), np.abs(pixels[first] - mirrored[second]).mean())
            assert gap > 0.01 or rows[first]["group"] == rows[second]["group"], (rows[first]["file"], rows[second]["file"])
