"""Image files to RGB arrays, and the check that they are image files."""

from __future__ import annotations

import concurrent.futures
import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from bridgejax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
# Up to this many bytes of files, each image is decoded whole before anything trains; beyond, headers and ends are read.
FULL_CHECK_BYTES = 512 << 20
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}


def decode_rgb(data: bytes, shorter_side: int | None = None) -> npt.NDArray[np.uint8]:
    """Decodes an image file.

    Args:
      data: a PNG, JPEG, WebP, BMP or GIF file (its first frame). Its EXIF orientation is applied, transparency is put on
        white, grey becomes RGB, 16-bit grey is scaled to 8 bits.
      shorter_side: shrink so that the shorter side is at most so many pixels; None keeps the size.

    Returns:
      uint8 [h, w, 3].

    Raises:
      OSError, ValueError, SyntaxError: the bytes are not an image that can be read.
    """
    with Image.open(io.BytesIO(data)) as opened:
        if shorter_side is not None and opened.format == "JPEG":
            opened.draft("RGB", (2 * shorter_side, 2 * shorter_side))  # halves in the decoder; never below the size asked for
        opened.seek(0)
        opened.load()
        image: Image.Image = ImageOps.exif_transpose(opened)
        image = _to_rgb(image)
    small = min(image.size)
    if shorter_side is not None and small > shorter_side:
        scale = shorter_side / small
        size = tuple(max(shorter_side, round(side * scale)) for side in image.size)
        image = image.resize((size[0], size[1]), Image.Resampling.BOX if small > 4 * shorter_side else Image.Resampling.BICUBIC)
    return np.array(image, np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float32)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        cut_out = image.convert("RGBA")
        white = Image.new("RGBA", cut_out.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, cut_out).convert("RGB")
    return image.convert("RGB")


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """Returns uint8 [h, w, 3] as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def check_files(paths: Sequence[Path]) -> None:
    """Makes sure that every file is an image that decodes, before anything else is done with them.

    A file that passed once is not read again by this process while its size and time stay the same.

    Raises:
      UserError: names the first file that is not an image, or is cut short or damaged.
    """
    try:
        facts = [(path, path.stat()) for path in paths]
    except OSError as error:
        raise UserError(f"{error.filename} could not be read ({error.strerror}); check its permissions.") from error
    full = sum(stat.st_size for _, stat in facts) <= FULL_CHECK_BYTES
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        reasons = pool.map(lambda fact: _what_is_wrong(str(fact[0]), fact[1].st_size, fact[1].st_mtime_ns, full), facts)
        for path, reason in zip(paths, reasons, strict=True):
            if reason:
                pool.shutdown(wait=False, cancel_futures=True)
                raise UserError(f"{path} {reason}; replace or remove the file.")


@functools.lru_cache(maxsize=1 << 20)
def _what_is_wrong(path: str, size: int, changed: int, full: bool) -> str | None:
    del changed  # part of the key
    if size == 0:
        return "is an empty file, not an image"
    try:
        with Image.open(path) as image:
            kind = image.format or ""
            if kind.lower() not in ("png", "jpeg", "mpo", "webp", "bmp", "gif"):
                return f"is a {kind} file; expected PNG, JPEG, WebP, BMP or GIF"
            if min(image.size) < 1:
                return "is an image without pixels"
            if full:
                image.load()
        if not full and kind in _ENDS:
            with open(path, "rb") as file:
                file.seek(max(0, size - 4096))
                if _ENDS[kind] not in file.read():
                    return "is cut short"
    except PermissionError:
        return "could not be read (permission denied)"
    except Image.DecompressionBombError:
        return "has too many pixels to be read safely"
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        if "truncated" in str(error).lower():
            return "is cut short"
        return "is not an image that can be read (expected PNG, JPEG, WebP, BMP or GIF)"
    return None


def pad_to_square(image: npt.NDArray[np.uint8], value: int = 255) -> npt.NDArray[np.uint8]:
    """Returns uint8 [s, s, 3], s the longer side, with the image in the middle of a plain ground."""
    height, width = image.shape[:2]
    side = max(height, width)
    out = np.full((side, side, 3), value, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = image
    return out
