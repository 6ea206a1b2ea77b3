"""Sample sheets: a row per class, a real image first, then images generated with the token as it is now."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from bridgejax.files import write_atomic

MARGIN = 4
CAPTION = 14  # pixels above each row for its class name


def write_sheet(file: Path, names: Sequence[str], real: Sequence[np.ndarray], generated: np.ndarray, side: int = 96) -> None:
    """Writes a sheet as a PNG file, whole or not at all.

    Args:
      file: to write.
      names: of the rows.
      real: uint8 [h, w, 3], one image for each row.
      generated: float32 [rows, k, h, w, 3] in [0, 1].
      side: of each picture on the sheet, in pixels.
    """
    rows, columns = len(names), generated.shape[1] + 1
    cell = side + MARGIN
    sheet = Image.new("RGB", (columns * cell + MARGIN, rows * (cell + CAPTION) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        top = MARGIN + row * (cell + CAPTION)
        # The built-in font knows Latin letters alone.
        draw.text((MARGIN, top), name.encode("latin-1", "replace").decode("latin-1"), fill="black")
        samples = np.rint(np.clip(np.nan_to_num(generated[row]), 0, 1) * 255).astype(np.uint8)
        pictures = [real[row], *samples]
        for column, picture in enumerate(pictures):
            fitted = ImageOps.pad(Image.fromarray(picture), (side, side), color="white")
            sheet.paste(fitted, (MARGIN + column * cell, top + CAPTION))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    write_atomic(file, buffer.getvalue())
