"""Random pictures as encoded files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def picture(number: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format=kind, **options)
    return file.getvalue()
