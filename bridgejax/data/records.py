"""TFRecord files of `tf.train.Example` messages, read and written without TensorFlow.

A TFRecord is a row of frames: length (uint64, little endian), masked CRC-32C of the length, payload, masked CRC-32C of
the payload (tensorflow/core/lib/io/record_writer.h). An Example is `{1: Features {1: map<string, Feature>}}`, a Feature
is one of `{1: BytesList}`, `{2: FloatList}`, `{3: Int64List}` (tensorflow/core/example/*.proto).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import google_crc32c

from bridgejax.errors import UserError

_MASK_64 = 0xFFFFFFFFFFFFFFFF
_MASK_DELTA = 0xA282EAD8
FRAME_HEADER = 12  # bytes before a payload: its length and the checksum of that
Value = int | bytes | str
Buffer = bytes | mmap.mmap
Span = tuple[int, int]  # first byte and the one after the last


def _varint(value: int) -> bytes:
    value &= _MASK_64  # int64: negative numbers take ten bytes of two's complement
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def encode_example(features: Mapping[str, Value]) -> bytes:
    """Returns a serialised `tf.train.Example` with one value per feature, keys in sorted order.

    Args:
      features: name → int (int64), bytes, or str (UTF-8).
    """
    entries = bytearray()
    for name in sorted(features):
        value = features[name]
        if isinstance(value, str | bytes):
            data = value.encode() if isinstance(value, str) else value
            feature = _field(1, _field(1, data))
        else:
            feature = _field(3, _field(1, _varint(int(value))))
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, bytes(entries))


def decode_example(data: Buffer) -> dict[str, list[int] | list[bytes] | list[float]]:
    """Returns feature name → list of values (bytes, floats or signed 64-bit integers) of a serialised Example.

    Raises:
      ValueError: the bytes are not an Example.
    """
    return {name: decode_feature(data, span) for name, span in feature_spans(data, (0, len(data))).items()}


def feature_spans(data: Buffer, example: Span) -> dict[str, Span]:
    """Returns feature name → where its value lies, of an Example that is a stretch of `data`; values are not read.

    Raises:
      ValueError: the bytes are not an Example.
    """
    spans: dict[str, Span] = {}
    for _, features in _fields(data, example, 1):
        for _, entry in _fields(data, features, 1):
            name, value = "", (entry[1], entry[1])
            for number, part in _fields(data, entry):
                if number == 1:
                    name = bytes(data[slice(*part)]).decode()
                elif number == 2:
                    value = part
            spans[name] = value
    return spans


def decode_feature(data: Buffer, feature: Span) -> list[int] | list[bytes] | list[float]:
    """Returns the values of a Feature that is a stretch of `data`."""
    for kind, content in _fields(data, feature):
        if kind == 1:
            return [bytes(data[slice(*part)]) for _, part in _fields(data, content, 1)]
        if kind == 2:
            parts = [bytes(data[slice(*part)]) for _, part in _fields(data, content, 1)]
            return [number for part in parts for number in struct.unpack(f"<{len(part) // 4}f", part)]
        if kind == 3:
            return _decode_integers(bytes(data[slice(*content)]))
    return []


def bytes_span(data: Buffer, feature: Span) -> Span:
    """Returns where the first value of a Feature of bytes lies.

    Raises:
      ValueError: it has none.
    """
    for kind, content in _fields(data, feature):
        if kind == 1:
            for _, part in _fields(data, content, 1):
                return part
    raise ValueError("the record's feature holds no bytes")


def _decode_integers(content: bytes) -> list[int]:
    values: list[int] = []
    position = 0
    while position < len(content):
        tag, position = _read_varint(content, position, len(content))
        number, position = _read_varint(content, position, len(content))
        if tag & 7 == 0:
            values.append(number)
            continue
        end = position + number
        while position < end:
            value, position = _read_varint(content, position, len(content))
            values.append(value)
    return [value - (1 << 64) if value >> 63 else value for value in values]


def _read_varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= end or shift > 63:
            raise ValueError("the record is not a tf.train.Example")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK_64, position
        shift += 7


def _fields(data: Buffer, message: Span, wanted: int | None = None) -> Iterator[tuple[int, Span]]:
    """Yields (field number, where it lies) of the length-delimited and fixed32 fields of a message."""
    position, end = message
    while position < end:
        tag, position = _read_varint(data, position, end)
        if tag & 7 == 2:
            length, position = _read_varint(data, position, end)
        elif tag & 7 == 5:
            length = 4
        else:
            raise ValueError("the record is not a tf.train.Example")
        if position + length > end:
            raise ValueError("the record is not a tf.train.Example")
        if wanted is None or tag >> 3 == wanted:
            yield tag >> 3, (position, position + length)
        position += length


def masked_crc32c(data: bytes) -> int:
    """Returns the CRC-32C rotated and offset, as TFRecord frames store it (tensorflow/core/lib/hash/crc32c.h)."""
    value: int = google_crc32c.value(data)
    return (((value >> 15) | (value << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def frame_record(payload: bytes) -> bytes:
    """Returns the payload framed as one TFRecord."""
    length = struct.pack("<Q", len(payload))
    return b"".join([length, struct.pack("<I", masked_crc32c(length)), payload, struct.pack("<I", masked_crc32c(payload))])


def read_records(path: str | os.PathLike[str], verify: bool = False) -> Iterator[bytes]:
    """Yields the payloads of a TFRecord file; see `records_of`."""
    with records_of(path, verify) as (data, spans):
        for start, end in spans:
            yield bytes(data[start:end])


@contextlib.contextmanager
def records_of(path: str | os.PathLike[str], verify: bool = False) -> Iterator[tuple[Buffer, Iterator[Span]]]:
    """Opens a TFRecord file: its bytes, mapped and not read, and where each payload lies.

    Args:
      path: the file.
      verify: check the payloads' CRCs too, which reads them (the lengths' are always checked).

    Raises:
      UserError: the file is missing, cut short or damaged.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:  # which cannot be mapped
                yield b"", iter(())
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data, _payloads(data, path, verify)
    except OSError as error:
        raise UserError(f"record file {path} could not be read ({error.strerror}); make it again.") from error


def _payloads(data: Buffer, path: str | os.PathLike[str], verify: bool) -> Iterator[Span]:
    damaged = f"record file {path} is damaged; make it again"
    position, size = 0, len(data)
    while position < size:
        header = bytes(data[position : position + FRAME_HEADER])
        if len(header) < FRAME_HEADER or struct.unpack("<I", header[8:])[0] != masked_crc32c(header[:8]):
            raise UserError(f"{damaged} (a record header is broken).")
        start = position + FRAME_HEADER
        end = start + struct.unpack("<Q", header[:8])[0]
        if end + 4 > size:
            raise UserError(f"{damaged} (it is cut short).")
        if verify and struct.unpack("<I", data[end : end + 4])[0] != masked_crc32c(bytes(data[start:end])):
            raise UserError(f"{damaged} (a record's checksum does not match).")
        yield start, end
        position = end + 4


def record_files(directory: Path, info: Mapping[str, object], split: str = "train") -> list[Path]:
    """Returns the TFRecord files of a split, in order, from the content of `dataset_info.json`.

    Raises:
      UserError: the dataset does not have the split, or is not stored as TFRecord.
    """
    splits = info.get("splits")
    matching = [s for s in splits if s.get("name") == split] if isinstance(splits, list) else []
    if not matching or info.get("fileFormat") != "tfrecord":
        raise UserError(f"{directory} holds no TFRecord split named {split!r}; give a set that bridgejax generated.")
    template = matching[0].get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    number = len(matching[0]["shardLengths"])
    digits = max(5, len(str(number)))
    files = []
    for shard in range(number):
        index, total = f"{shard:0{digits}}", f"{number:0{digits}}"
        values = {"DATASET": info["name"], "SPLIT": split, "FILEFORMAT": "tfrecord", "SHARD_INDEX": index}
        values |= {"NUM_SHARDS": total, "SHARD_X_OF_Y": f"{index}-of-{total}"}
        files.append(directory / str(template).format(**values))
    return files
