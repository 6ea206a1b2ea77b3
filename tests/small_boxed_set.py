"""A boxed set of squares and discs, in COCO's format, that a small network learns in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("disc", "square")


def write_boxed_part(folder: Path, count: int, side: int = 64, seed: int = 0) -> Path:
    """Writes images with a disc on the left and a square on the right, and their annotations; categories are 3 and 7."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    y, x = np.mgrid[:side, :side]
    for number in range(count):
        pixels = rng.integers(90, 130, (side, side, 3))
        for label in (0, 1):
            size = int(rng.integers(side // 4, side // 2 - 2))
            left, top = int(rng.integers(0, side // 2 - size)) + label * side // 2, int(rng.integers(0, side - size))
            away = [x + 0.5 - left - size / 2, y + 0.5 - top - size / 2]
            inside = np.maximum(*map(abs, away)) <= size / 2 if label else np.hypot(*away) <= size / 2
            pixels[inside] = (240, 230, 20) if label else (20, 30, 220)
            about = {"category_id": (3, 7)[label], "bbox": [left, top, size, size]}
            annotations.append({"id": len(annotations), "image_id": 10 + number, **about})
        Image.fromarray(np.uint8(pixels)).save(folder / f"{number}.png")
        images.append({"id": 10 + number, "file_name": f"{number}.png", "width": side, "height": side})
    categories = [{"id": number, "name": name} for number, name in zip((3, 7), NAMES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def write_boxed_set(folder: Path) -> Path:
    """Writes a set of four images to train on and three to test on."""
    write_boxed_part(folder / "train", 4)
    write_boxed_part(folder / "test", 3, seed=1)
    return folder
