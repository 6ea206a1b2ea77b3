"""Small image files and folders of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture

from bridgejax.data import Examples


@pytest.fixture
def make_examples():
    """Returns a function that makes n random images of a size; image i of any call with one `first` is the same."""

    def make(count: int, height: int = 12, width: int = 16, first: int = 0, classes: int = 3) -> Examples:
        images = tuple(encoded(picture(first + i, height, width)) for i in range(count))
        labels = np.arange(count, dtype=np.int32) % classes
        return Examples(images, labels, tuple(f"{first + i}" for i in range(count)))

    return make


@pytest.fixture
def make_folder(tmp_path):
    """Returns a function that writes class folders with so many images each."""

    def make(counts: dict[str, int], root: Path | None = None) -> Path:
        root = tmp_path / "photos" if root is None else root
        for number, (name, count) in enumerate(counts.items()):
            (root / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (root / name / f"{i}.png").write_bytes(encoded(picture(1000 * number + i)))
        return root

    return make
