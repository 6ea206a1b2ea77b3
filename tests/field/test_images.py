"""Image files as people have them: each kind is read as Pillow reads it, or refused in a sentence that names the file."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from bridgejax.data import Examples, load_task
from bridgejax.data.images import SUFFIXES, BadImage, check_files, decode_rgb
from bridgejax.data.pixels import decode_example
from bridgejax.errors import UserError

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def saved(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, format=kind, **options)
    return file.getvalue()


def checked(data: bytes, folder: Path, suffix: str = ".png") -> np.ndarray:
    """Decodes a file that the check of a task's files lets pass."""
    file = folder / f"x{suffix}"
    file.write_bytes(data)
    check_files([file])
    return decode_rgb(data)


def refused(data: bytes, folder: Path, suffix: str = ".png") -> str:
    """Returns why the check refuses a file; so does the decoder, with the same words."""
    file = folder / f"x{suffix}"
    file.write_bytes(data)
    with pytest.raises(UserError) as caught:
        check_files([file])
    with pytest.raises(BadImage) as again:
        decode_rgb(data)
    assert str(again.value) in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(again.value)


def as_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def test_whole_numbers_of_more_than_8_bits_are_scaled_by_their_depth_alone(tmp_path):
    """The kind: grey of more than 8 bits, whatever values are in the file.

    Pillow opens it as I;16, I;16B or I: PNG and TIFF of 16 bits in both byte orders, white or black at 0, TIFF of 12 bits, PGM
    with a maxval over 255, JPEG 2000 of 16 bits. 200 of 65535 is nearly black, and no brighter pixel beside it changes that.
    """
    for values in ([0, 100, 200, 255], [0, 200, 256, 300], [0, 257, 32768, 65535]):
        deep = np.asarray([values], np.uint16)
        wanted = np.rint(deep / 257).astype(np.uint8)
        big_endian = Image.frombytes("I;16B", deep.shape[::-1], deep.astype(">u2").tobytes())
        white_at_0 = saved(Image.fromarray(65535 - deep), "TIFF", tiffinfo={262: 0})
        pgm = b"P5 4 1 65535\n" + deep.astype(">u2").tobytes()
        lossless = saved(deep, "JPEG2000", irreversible=False)
        for data in (saved(deep), saved(deep, "TIFF"), saved(big_endian, "TIFF"), white_at_0, pgm, lossless):
            np.testing.assert_array_equal(checked(data, tmp_path)[..., 0], wanted)
    twelve = checked(b"P5 2 1 4095\n" + np.asarray([16, 4095], ">u2").tobytes(), tmp_path)
    np.testing.assert_array_equal(twelve[0, :, 0], [1, 255])
    clear = saved(np.asarray([[0, 1000, 60000]], np.uint16), transparency=1000)
    np.testing.assert_array_equal(checked(clear, tmp_path)[0, :, 0], [0, 255, 233])


def png_of_16_bits(colour: int, rows: np.ndarray) -> bytes:
    """A PNG of a colour type, uint16 [h, w, channels]; Pillow does not write it."""
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, colour, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_colour_of_16_bits_is_within_one_level(tmp_path):
    """The kind: colour of 16 bits (PNG as RGB, RGBA and grey with alpha, PPM), of which Pillow keeps the upper 8 bits."""
    deep = np.random.default_rng(1).integers(0, 65536, (3, 4, 4), np.uint16)
    deep[..., 3] = 65535
    for colour, channels in ((2, deep[..., :3]), (6, deep), (4, deep[..., 2:])):
        shown = checked(png_of_16_bits(colour, channels), tmp_path).astype(int)
        assert np.abs(shown - channels[..., : 1 if colour == 4 else 3] / 257.0).max() <= 1
    ppm = b"P6 4 3 65535\n" + deep[..., :3].astype(">u2").tobytes()
    assert np.abs(checked(ppm, tmp_path) - deep[..., :3] / 257.0).max() <= 1


def test_numbers_without_a_range_are_refused(tmp_path):
    """The kind: pixels whose black and white nothing states: float and 32-bit TIFF, signed 16-bit TIFF, float PFM, LAB."""
    grey = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    assert "floating-point numbers" in refused(saved(grey, "TIFF"), tmp_path)
    assert "floating-point numbers" in refused(b"Pf\n4 3\n-1.0\n" + grey.tobytes(), tmp_path, ".ppm")
    assert "whole numbers" in refused(saved(Image.fromarray(np.arange(12, dtype=np.int32).reshape(3, 4)), "TIFF"), tmp_path)
    assert "LAB" in refused(saved(Image.new("LAB", (3, 4)), "TIFF"), tmp_path)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "CMYK", "YCbCr"])
def test_every_suffix_and_colour_space_of_jpeg(tmp_path, mode):
    """The kind: JPEG by any of its suffixes (.jpg, .jpeg, .jpe, .jfif, .jif, .pjpeg, .pjp, in any case) and in any colour space
    (RGB, grey, CMYK and YCCK with Adobe's inverted values); wanted is what Pillow's own conversion gives."""
    image = Image.fromarray(COLOURS).convert(mode)
    data = saved(image, "JPEG", quality=95)
    for suffix in (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".JPG", ".JPE"):
        np.testing.assert_array_equal(checked(data, tmp_path, suffix), as_pillow(data))
        assert suffix.lower() in SUFFIXES
    assert decode_rgb(data, shorter_side=3).shape == (3, 4, 3)


@pytest.mark.parametrize(
    ("kind", "suffix", "options"),
    [
        ("PNG", ".png", {}),
        ("WEBP", ".webp", {"lossless": True}),
        ("BMP", ".bmp", {}),
        ("DIB", ".dib", {}),
        ("GIF", ".gif", {}),
        ("TIFF", ".tif", {}),
        ("TIFF", ".tiff", {"compression": "tiff_lzw"}),
        ("PPM", ".ppm", {}),
        ("JPEG2000", ".jp2", {"irreversible": False}),
        ("AVIF", ".avif", {"quality": 100}),
        ("MPO", ".jpg", {"save_all": True, "append_images": [Image.new("RGB", (8, 6))]}),
    ],
)
def test_every_kind_of_file(tmp_path, kind, suffix, options):
    """The kind: what Pillow's list of file formats reads and photographs come in, also with the suffix of another format."""
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = saved(COLOURS, kind, **options)
    for name in (suffix, suffix.upper(), ".png"):
        np.testing.assert_array_equal(checked(data, tmp_path, name), as_pillow(data))


def test_transparency_lies_on_white(tmp_path):
    """The kind: alpha as a channel (RGBA, LA), as a palette's entry, as a palette's alphas, as one clear colour (RGB, grey)."""
    alpha = np.zeros((2, 2, 4), np.uint8)
    alpha[0] = (10, 20, 30, 255)
    half = alpha.copy()
    half[0, :, 3] = 128
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    for data, top in (
        (saved(alpha), (10, 20, 30)),
        (saved(alpha, "WEBP", lossless=True), (10, 20, 30)),
        (saved(alpha, "TIFF"), (10, 20, 30)),
        (saved(Image.fromarray(alpha).convert("LA")), (18, 18, 18)),
        (saved(half), (132, 137, 142)),
    ):
        shown = checked(data, tmp_path)
        assert np.abs(shown[0, 0].astype(int) - top).max() <= 1
        np.testing.assert_array_equal(shown[1], 255)
    for data in (
        saved(palette, transparency=1),
        saved(palette, transparency=bytes([255, 0])),
        saved(palette, "GIF", transparency=1),
    ):
        np.testing.assert_array_equal(checked(data, tmp_path)[0], [[10, 20, 30], [255, 255, 255]])
    rgb = np.asarray([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    np.testing.assert_array_equal(checked(saved(rgb, transparency=(4, 5, 6)), tmp_path)[0], [[1, 2, 3], [255, 255, 255]])
    grey = np.asarray([[7, 8]], np.uint8)
    np.testing.assert_array_equal(checked(saved(grey, transparency=8), tmp_path)[0, :, 0], [7, 255])


def exif(*entries: tuple[int, int, int, bytes], orientation: int | None = 6) -> bytes:
    """EXIF of an orientation and (tag, type, count, four bytes of value) entries as a camera, or a bad program, writes them."""
    rows = list(entries) + ([(0x112, 3, 1, struct.pack("<HH", orientation, 0))] if orientation is not None else [])
    body = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in sorted(rows))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + body + b"\0\0\0\0"


DAMAGED = {
    "width is a negative long": exif((0x100, 9, 1, struct.pack("<i", -5))),
    "width is a float": exif((0x100, 11, 1, struct.pack("<f", 3.5))),
    "resolution is text": exif((0x11A, 2, 4, b"abc\0")),
    "strip offset is text": exif((0x111, 2, 4, b"abc\0")),
    "a value lies beyond the end": exif((0x10F, 2, 4000, struct.pack("<I", 60000))),
    "a type that does not exist": exif((0x10F, 99, 1, b"abcd")),
    "a rational of nothing": exif((0x11A, 5, 0, b"\0\0\0\0")),
    "a pointer to nowhere": exif((0x8769, 4, 1, struct.pack("<I", 1 << 30))),
    "an offset of GPS that is text": exif((0x8825, 2, 4, b"abc\0")),
    "orientation 0": exif(orientation=0),
    "orientation 99": exif(orientation=99),
    "orientation is text": exif((0x112, 2, 4, b"six\0"), orientation=None),
    "orientation is a pair": exif((0x112, 3, 2, struct.pack("<HH", 6, 6)), orientation=None),
    "cut short": exif()[:20],
    "empty": b"Exif\0\0",
    "noise": b"Exif\0\0" + bytes(range(200)),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_exif_does_not_stop_an_image(tmp_path, kind, damage):
    """The kind: EXIF that some program wrote against its rules (wrong types, counts and pointers, cut off, noise), in each
    format that carries EXIF. What passes the check also decodes, turned as the orientation says or as it lies in the file."""
    data = saved(COLOURS, kind, exif=DAMAGED[damage], **({"lossless": True} if kind == "WEBP" else {}))
    shown = checked(data, tmp_path)
    flat = as_pillow(data)
    assert any(np.array_equal(shown, one) for one in (flat, np.rot90(flat, -1)))
    np.testing.assert_array_equal(decode_example(Examples((data,), np.zeros(1, np.int32), ("x",)), 0, 32), shown)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_undone_as_pillow_does(tmp_path, orientation):
    """The kind: all eight orientations, in JPEG, PNG, WebP, TIFF and AVIF."""
    tags = Image.Exif()
    tags[0x112] = orientation
    kinds = ("JPEG", "PNG", "WEBP", "TIFF", *(("AVIF",) if features.check("avif") else ()))
    for kind in kinds:
        data = saved(COLOURS, kind, exif=tags)
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(checked(data, tmp_path), np.asarray(ImageOps.exif_transpose(image).convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(tmp_path, kind):
    """The kind: animated GIF, WebP and APNG, and TIFF of several pages."""
    first, second = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    shown = checked(saved(first, kind, save_all=True, append_images=[second], **options), tmp_path)
    assert shown.shape == (6, 8, 3)
    np.testing.assert_array_equal(shown[0, 0], (255, 0, 0))


def test_what_is_no_image_is_refused_with_its_reason(tmp_path):
    """The kind: empty and cut files of every format, text with an image's suffix, formats that hold no photographs, HEIC
    without a plugin, and headers of more pixels than memory."""
    assert refused(b"", tmp_path) == "is an empty file, not an image"
    assert "not an image that can be read" in refused(b"<html>Not found</html>", tmp_path, ".jpg")
    assert "is a PCX file; expected PNG, JPEG" in refused(saved(COLOURS, "PCX"), tmp_path)
    assert "HEIC" in refused(b"\0\0\0\x18ftypheic" + bytes(64), tmp_path, ".heic")
    big = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"):
        if kind != "AVIF" or features.check("avif"):
            whole = saved(big, kind)
            assert refused(whole[: len(whole) // 2], tmp_path)
            assert refused(whole[:20], tmp_path)
    huge = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    import zlib

    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + huge + struct.pack(">I", zlib.crc32(b"IHDR" + huge))
    assert "too many pixels" in refused(bomb + saved(COLOURS)[33:], tmp_path)


def test_large_sets_are_checked_by_header_and_end_with_the_same_words(tmp_path, monkeypatch):
    """The kind: the light check of sets that are too large to decode twice."""
    from bridgejax.data import images

    monkeypatch.setattr(images, "FULL_CHECK_BYTES", 0)
    grey = np.zeros((3, 4), np.float32)
    for data, words in (
        (saved(COLOURS)[:-20], "is cut short"),
        (saved(grey, "TIFF"), "floating-point numbers"),
        (b"nothing", "is not an image that can be read"),
        (b"", "is an empty file"),
        (saved(COLOURS, "PCX"), "is a PCX file"),
    ):
        file = tmp_path / f"{len(data)}.png"
        file.write_bytes(data)
        with pytest.raises(UserError, match=words):
            check_files([file])


def test_a_task_of_mixed_files_loads_and_trains_with_the_decoder_that_checked_it(tmp_path):
    """The kind: class folders as cameras, phones and scanners fill them."""
    from bridgejax.data import eval_batches

    files = {"a.jfif": saved(COLOURS, "JPEG", exif=DAMAGED["width is a negative long"]), "b.JPE": saved(COLOURS, "JPEG")}
    files |= {"c.tif": saved(np.asarray([[0, 200, 300]], np.uint16), "TIFF"), "d.ppm": saved(COLOURS, "PPM")}
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for file, data in files.items():
            (tmp_path / name / file).write_bytes(data)
    task = load_task(f"folder:{tmp_path}", shots=1)
    (batch,) = eval_batches(task.test, batch_size=6, image_size=8)
    assert batch["image"].shape == (6, 8, 8, 3)
