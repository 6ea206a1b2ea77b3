"""Image files to RGB arrays, and the check that they are image files."""

from __future__ import annotations

import concurrent.futures
import functools
import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from bridgejax.errors import UserError, either

# Each kind of file that is read: its name, Pillow's names of it, and the suffixes that files of it have. A file is read by what
# it holds, whatever its suffix; HEIC only where a plugin of Pillow's is registered.
_KINDS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("PNG", ("PNG",), (".png", ".apng")),
    ("JPEG", ("JPEG", "MPO"), (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo")),
    ("WebP", ("WEBP",), (".webp",)),
    ("BMP", ("BMP", "DIB"), (".bmp", ".dib")),
    ("GIF", ("GIF",), (".gif",)),
    ("TIFF", ("TIFF",), (".tif", ".tiff")),
    ("PPM", ("PPM",), (".ppm", ".pgm", ".pbm", ".pnm")),
    ("JPEG 2000", ("JPEG2000",), (".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c")),
    ("AVIF", ("AVIF",), (".avif", ".avifs")),
    ("HEIC", ("HEIF", "HEIC"), (".heic", ".heif", ".hif")),
)
KNOWN_FORMATS = either([name for name, _, _ in _KINDS])
SUFFIXES = tuple(suffix for _, _, suffixes in _KINDS for suffix in suffixes)
_FORMATS = {pillow: name for name, names, _ in _KINDS for pillow in names}
# Up to this many bytes of files, each image is decoded whole before anything trains; beyond, headers and ends are read.
FULL_CHECK_BYTES = 512 << 20
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
# What Pillow finds odd in EXIF says nothing about the pixels, and where warnings are errors it would not read them.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 0x0112, 0x0102, 0x0106
# EXIF's orientations 2 to 8, undone (Exif 2.32, table 6).
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE"}
_UPRIGHT = {value: Image.Transpose[name] for value, name in {**_TURNS, 8: "ROTATE_90"}.items()}


class BadImage(ValueError):
    """What is wrong with an image file, as it goes on after the name of the file: "is cut short"."""


def decode_rgb(data: bytes, shorter_side: int | None = None) -> npt.NDArray[np.uint8]:
    """Returns the pixels of an image file, uint8 [h, w, 3].

    Args:
      data: a file of one of `KNOWN_FORMATS`; of several frames or pages the first. Its EXIF orientation is applied (one that
        cannot be read is passed over), transparency is put on white, grey becomes RGB. Whole numbers of more than 8 bits are
        divided by what their depth makes it, 257 for 16 bits, and rounded; Pillow itself gives the upper 8 bits of 16-bit
        colour.
      shorter_side: shrink so that the shorter side is at most so many pixels; None keeps the size.

    Raises:
      BadImage: the bytes are no such file, are cut short or damaged, or hold numbers whose range nothing states (32-bit
        whole ones, signed ones, floating point).
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            _check_header(opened)
            if shorter_side is not None and opened.format == "JPEG":
                # Halves in the decoder; never below the size asked for.
                opened.draft("RGB", (2 * shorter_side, 2 * shorter_side))
            opened.seek(0)
            opened.load()
            image = _to_rgb(_upright(opened))
    except BadImage:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen kinds for damaged files
        raise BadImage(_reason(data, error)) from error
    small = min(image.size)
    if shorter_side is not None and small > shorter_side:
        scale = shorter_side / small
        size = tuple(max(shorter_side, round(side * scale)) for side in image.size)
        image = image.resize((size[0], size[1]), Image.Resampling.BOX if small > 4 * shorter_side else Image.Resampling.BICUBIC)
    return np.array(image, np.uint8)


def _reason(data: bytes, error: Exception) -> str:
    """Returns what is wrong with a file that Pillow could not read, as it goes on after the file's name."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "has too many pixels to be read safely"
    if not data:
        return "is an empty file, not an image"
    if "truncated" in str(error).lower():
        return "is cut short"
    if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        return "is a HEIC file, which this Pillow cannot read without a plugin (pillow-heif)"
    if data[4:11] == b"ftypavi":
        return "is an AVIF file, which this Pillow cannot read, or is damaged"
    return f"is not an image that can be read (expected {KNOWN_FORMATS})"


def _check_header(image: Image.Image) -> None:
    kind = image.format or ""
    if kind not in _FORMATS:
        raise BadImage(f"is a {kind} file; expected {KNOWN_FORMATS}")
    if min(image.size) < 1:
        raise BadImage("is an image without pixels")
    if image.mode == "F" or (image.mode == "I" and kind not in ("PNG", "PPM")):
        numbers = "floating-point numbers" if image.mode == "F" else "signed or 32-bit whole numbers"
        raise BadImage(f"holds {numbers}, and nothing says which of them are black and white")
    if image.mode in ("LAB", "HSV"):
        raise BadImage(f"holds {image.mode} colours, not RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Returns a loaded image turned as its EXIF orientation says; as it is where there is none that can be read."""
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # of damaged EXIF, which says nothing about the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _deep_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        cut_out = image.convert("RGBA")
        white = Image.new("RGBA", cut_out.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, cut_out).convert("RGB")
    return image.convert("RGB")


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    """Returns grey of more than 8 bits as RGB; a value that the file calls transparent is white."""
    tags = getattr(image, "tag_v2", {})  # of TIFF
    bits = tags.get(_BITS_PER_SAMPLE, (16,))
    top = float((1 << (bits[0] if isinstance(bits, tuple) else bits)) - 1)
    values = np.asarray(image, np.float32)
    grey = np.rint(np.clip(values * (255.0 / top), 0, 255))
    if tags.get(_PHOTOMETRIC) == 0:  # 0 is white; Pillow turns this over for 8 bits alone
        grey = 255 - grey
    if isinstance(clear := image.info.get("transparency"), int):
        grey[values == clear] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _pixels(image: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Returns an image as it is.

    Raises:
      UserError: it is not uint8 [h, w, 3] with at least one pixel.
    """
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(
            f"the image is {array.dtype} {list(array.shape)}; give uint8 [h, w, 3], red, green and blue in [0, 255]."
        )
    return array


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """Returns uint8 [h, w, 3] as the bytes of a PNG file.

    Raises:
      UserError: the image has another dtype or shape.
    """
    file = io.BytesIO()
    Image.fromarray(_pixels(image)).save(file, format="PNG", compress_level=1)
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
                raise UserError(f"{path} {reason}; convert, replace or remove the file.")


@functools.lru_cache(maxsize=1 << 20)
def _what_is_wrong(path: str, size: int, changed: int, full: bool) -> str | None:
    del changed  # part of the key
    try:
        if full or not size:
            decode_rgb(Path(path).read_bytes())
            return None
        with Image.open(path) as image:
            _check_header(image)
            kind = image.format or ""
        if kind in _ENDS:
            with open(path, "rb") as file:
                file.seek(max(0, size - 4096))
                if _ENDS[kind] not in file.read():
                    return "is cut short"
    except PermissionError:
        return "could not be read (permission denied)"
    except BadImage as error:
        return str(error)
    except Exception as error:  # as in decode_rgb
        with open(path, "rb") as file:
            return _reason(file.read(16), error)
    return None


def pad_to_square(image: npt.NDArray[np.uint8], value: int = 255) -> npt.NDArray[np.uint8]:
    """Returns uint8 [s, s, 3], s the longer side, with uint8 [h, w, 3] in the middle of a plain ground.

    Raises:
      UserError: the image has another dtype or shape.
    """
    height, width = _pixels(image).shape[:2]
    side = max(height, width)
    out = np.full((side, side, 3), value, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = image
    return out
