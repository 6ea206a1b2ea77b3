"""The task made of GCompris's photographs: Qt's resource format, what READMEs say of a picture, and the folder written."""

from __future__ import annotations

import io
import json
import struct
import sys
import types
import zlib
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from build_gcompris_task import REVIEW, build, licences  # noqa: E402
from qt_resources import ResourceError, read_resources  # noqa: E402

README = b"""Copyright: Ada
Source: https://example.org/a.jpg
License: CC0-1.0
Files:
one.webp
two.webp

Copyright: Bo
Files: three.webp
License: Public Domain
Comments: cropped

Copyright: Cy
Files:
four.webp
"""


def resource_file(files: dict[str, tuple[bytes, int]], version: int = 3) -> bytes:
    """Returns a .rcc file of files in folders: path → (stored content, flags), as Qt's writer lays it out."""
    names, data, offsets = b"", b"", {}
    entries: list[tuple[str, list[int], tuple[bytes, int] | None]] = [("", [], None)]
    places = {"": 0}
    # Breadth first, so that a folder's children lie side by side.
    pending = [""]
    while pending:
        folder = pending.pop(0)
        prefix = f"{folder}/" if folder else ""
        for child in sorted({path[len(prefix) :].split("/")[0] for path in files if path.startswith(prefix)}):
            path = prefix + child
            places[path] = len(entries)
            entries[places[folder]][1].append(len(entries))
            entries.append((child, [], files.get(path)))
            if path not in files:
                pending.append(path)
    tree = b""
    for name, children, content in entries:
        if name not in offsets:
            offsets[name] = len(names)
            names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if content is None:
            tree += struct.pack(">IHII", offsets[name], 2, len(children), children[0])
        else:
            tree += struct.pack(">IHHHI", offsets[name], content[1], 0, 0, len(data))
            data += struct.pack(">I", len(content[0])) + content[0]
        tree += struct.pack(">Q", 0) if version >= 2 else b""
    start = 20 if version < 3 else 24
    header = b"qres" + struct.pack(">4I", version, start + len(data), start, start + len(data) + len(tree))
    return header + (b"" if version < 3 else struct.pack(">I", 1)) + data + tree + names


def compressed(content: bytes) -> tuple[bytes, int]:
    return struct.pack(">I", len(content)) + zlib.compress(content), 1


@pytest.mark.parametrize("version", [1, 2, 3])
def test_files_of_folders_are_read_plain_and_compressed(version: int) -> None:
    files = {"a/b/é.txt": b"hello" * 9, "a/c.txt": b"plain", "d": b""}
    stored = {"a/b/é.txt": compressed(files["a/b/é.txt"]), "a/c.txt": (files["a/c.txt"], 0), "d": (b"", 0)}
    assert read_resources(resource_file(stored, version)) == files


def test_what_is_no_resource_file_is_told_so() -> None:
    whole = resource_file({"a/b": compressed(b"hello" * 9)})
    for data, message in (
        (b"PK\x03\x04", "not a Qt resource file"),
        (b"qres" + struct.pack(">I", 9) + whole[8:], "version 9"),
        (whole[:12], "cut short or damaged"),
        (whole[:-6], "cut short or damaged"),
        (whole.replace(b"\x78\x9c", b"\x00\x00"), "cut short or damaged"),
    ):
        with pytest.raises(ResourceError, match=message):
            read_resources(data)


def test_a_folder_that_holds_itself_is_told_so() -> None:
    whole = resource_file({"a/b": (b"x", 0)})
    tree = struct.unpack_from(">I", whole, 8)[0]
    inside = tree + 22 + 10  # where entry 1, the folder "a", says which its first child is
    with pytest.raises(ResourceError, match="two folders"):
        read_resources(whole[:inside] + struct.pack(">I", 1) + whole[inside + 4 :])


def test_zstandard_is_unpacked_where_its_package_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resource_file({"a": (b"packed", 4)})
    package = types.ModuleType("zstandard")
    package.ZstdError = RuntimeError
    package.ZstdDecompressor = lambda: types.SimpleNamespace(decompress={b"packed": b"hello"}.__getitem__)
    monkeypatch.setitem(sys.modules, "zstandard", package)
    assert read_resources(whole) == {"a": b"hello"}
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ResourceError, match="pip install zstandard"):
        read_resources(whole)


def test_readme_blocks_say_whose_a_picture_is() -> None:
    told = licences(README.decode())
    assert (told["two.webp"].copyright, told["two.webp"].licence) == ("Ada", "CC0-1.0")
    assert (told["three.webp"].copyright, told["three.webp"].licence, told["three.webp"].source) == ("Bo", "Public Domain", "")
    assert told["four.webp"].licence == ""


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    picture = io.BytesIO()
    Image.new("RGBA", (300, 150), (200, 0, 0, 0)).save(picture, "WEBP", lossless=True)
    place = "gcompris/src/activities/erase/resource"
    files = {f"{place}/{name}.webp": (picture.getvalue(), 0) for name in ("one", "four", "five")}
    (tmp_path / "erase.rcc").write_bytes(resource_file({**files, f"{place}/README": compressed(README)}))
    return tmp_path


def test_pictures_are_written_with_their_licences(resources: Path) -> None:
    output = resources / "task"
    assert build(resources, output, {"bird": {"erase": ["one"]}}) == {"bird": 1}
    picture = Image.open(output / "bird/erase_one.jpg")
    assert picture.size == (128, 64)
    assert picture.getpixel((5, 5)) == (255, 255, 255)
    known = json.loads((output / "SOURCES.json").read_text())["bird/erase_one.jpg"]
    assert (known["copyright"], known["licence"]) == ("Ada", "CC0-1.0")


@pytest.mark.parametrize(
    ("name", "message"), [("six", "holds no"), ("four", "no licence for four"), ("five", "no licence for five")]
)
def test_a_picture_that_is_missing_or_has_no_licence_is_refused(resources: Path, name: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        build(resources, resources / "task", {"bird": {"erase": ["one", name]}})
    assert not (resources / "task").exists()


def test_every_class_kept_has_photographs_for_eight_shots_and_a_test_part() -> None:
    kept = json.loads(REVIEW.read_text(encoding="utf-8"))["kept"]
    for label, folders in kept.items():
        names = [(folder, name) for folder, found in folders.items() for name in found]
        assert len(set(names)) == len(names) >= 10, label
