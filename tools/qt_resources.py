"""Reads Qt's binary resource files (`.rcc`) without Qt.

The layout is that of Qt's reader and writer (``qtbase/src/corelib/io/qresource.cpp``, ``qtbase/src/tools/rcc/rcc.cpp``), all
numbers big-endian: a header ("qres", version, and where tree, data and names begin), a tree of 14-byte entries (22 from version
2 on, which adds times), names in UTF-16 behind their length and hash, and data behind its size, plain or compressed.
"""

from __future__ import annotations

import struct
import zlib

_DIRECTORY, _ZLIB, _ZSTD = 2, 1, 4  # flags of an entry
_ENTRY_SIZES = {1: 14, 2: 22, 3: 22}  # by version


class ResourceError(ValueError):
    """What is read is not a resource file that this module knows; the message is one sentence."""


def read_resources(data: bytes) -> dict[str, bytes]:
    """Returns the files of a resource file by their paths, such as "images/fishes/fish1.webp", decompressed.

    Args:
      data: the whole `.rcc` file.

    Raises:
      ResourceError: it is another kind of file, of another version, cut short or damaged, or compressed with Zstandard where
        the package `zstandard` is not installed.
    """
    if data[:4] != b"qres":
        raise ResourceError("this is not a Qt resource file: it does not begin with 'qres'; give a .rcc file.")
    try:
        version, tree, payload, names = struct.unpack_from(">4I", data, 4)
        if version not in _ENTRY_SIZES:
            raise ResourceError(f"this Qt resource file is of version {version}; versions 1 to 3 can be read.")
        return _Reader(data, tree, payload, names, _ENTRY_SIZES[version]).files()
    except (struct.error, zlib.error, UnicodeDecodeError, IndexError) as error:
        raise ResourceError(f"this Qt resource file is cut short or damaged ({error}); fetch it again.") from error


class _Reader:
    """A resource file and where its parts begin."""

    def __init__(self, data: bytes, tree: int, payload: int, names: int, entry_size: int) -> None:
        self._data, self._tree, self._payload, self._names, self._entry_size = data, tree, payload, names, entry_size
        self._seen: set[int] = set()

    def files(self) -> dict[str, bytes]:
        """Returns every file below the root, which is entry 0 and has no name."""
        found: dict[str, bytes] = {}
        pending = [(0, "")]
        while pending:
            number, folder = pending.pop()
            if number in self._seen:
                raise ResourceError(f"this Qt resource file is damaged: entry {number} stands in two folders; fetch it again.")
            self._seen.add(number)
            start = self._tree + number * self._entry_size
            name, flags = struct.unpack_from(">IH", self._data, start)
            path = folder if number == 0 else f"{folder}/{self._name(name)}".lstrip("/")
            if flags & _DIRECTORY:
                count, first = struct.unpack_from(">II", self._data, start + 6)
                pending += [(child, path) for child in range(first, first + min(count, len(self._data)))]
            else:
                # Behind territory and language, two bytes each.
                found[path] = self._content(struct.unpack_from(">I", self._data, start + 10)[0], flags)
        return dict(sorted(found.items()))

    def _name(self, offset: int) -> str:
        start = self._names + offset
        length = struct.unpack_from(">H", self._data, start)[0]
        return self._bytes(start + 6, 2 * length).decode("utf-16-be")  # behind the length and the hash

    def _content(self, offset: int, flags: int) -> bytes:
        start = self._payload + offset
        content = self._bytes(start + 4, struct.unpack_from(">I", self._data, start)[0])
        if flags & _ZLIB:
            return zlib.decompress(content[4:])  # behind the size that it will have
        return _unpack_zstandard(content) if flags & _ZSTD else content

    def _bytes(self, start: int, count: int) -> bytes:
        found = self._data[start : start + count]
        if len(found) != count:
            raise IndexError(f"{count} bytes at {start}, but the file ends at {len(self._data)}")
        return found


def _unpack_zstandard(content: bytes) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise ResourceError(
            "this Qt resource file is compressed with Zstandard, which needs a package: pip install zstandard."
        ) from None
    try:
        unpacked: bytes = zstandard.ZstdDecompressor().decompress(content)
    except zstandard.ZstdError as error:
        raise ResourceError(f"this Qt resource file is cut short or damaged ({error}); fetch it again.") from error
    return unpacked
