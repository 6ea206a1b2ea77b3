"""TFRecord files of `tf.train.Example` messages, read and written without TensorFlow.

A TFRecord is a row of frames: length (uint64, little endian), masked CRC-32C of the length, payload, masked CRC-32C of
the payload (tensorflow/core/lib/io/record_writer.h). An Example is `{1: Features {1: map<string, Feature>}}`, a Feature
is one of `{1: BytesList}`, `{2: FloatList}`, `{3: Int64List}` (tensorflow/core/example/*.proto).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from bridgejax.data.crc32c import masked_crc32c
from bridgejax.errors import UserError

_MASK_64 = 0xFFFFFFFFFFFFFFFF
Value = int | bytes | str


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


def decode_example(data: bytes) -> dict[str, list[int] | list[bytes] | list[float]]:
    """Returns feature name → list of values (bytes, floats or signed 64-bit integers) of a serialised Example.

    Raises:
      ValueError: the bytes are not an Example.
    """
    out: dict[str, list[int] | list[bytes] | list[float]] = {}
    for _, features in _fields(data, 1):
        for _, entry in _fields(features, 1):
            name, value = "", b""
            for number, part in _fields(entry):
                if number == 1:
                    name = part.decode()
                elif number == 2:
                    value = part
            out[name] = _decode_feature(value)
    return out


def _decode_feature(data: bytes) -> list[int] | list[bytes] | list[float]:
    for kind, content in _fields(data):
        if kind == 1:
            return [part for _, part in _fields(content, 1)]
        if kind == 2:
            return [number for _, part in _fields(content, 1) for number in struct.unpack(f"<{len(part) // 4}f", part)]
        if kind == 3:
            return _decode_integers(content)
    return []


def _decode_integers(content: bytes) -> list[int]:
    values: list[int] = []
    position = 0
    while position < len(content):
        tag, position = _read_varint(content, position)
        number, position = _read_varint(content, position)
        if tag & 7 == 0:
            values.append(number)
            continue
        end = position + number
        while position < end:
            value, position = _read_varint(content, position)
            values.append(value)
    return [value - (1 << 64) if value >> 63 else value for value in values]


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError("the record is not a tf.train.Example")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK_64, position
        shift += 7


def _fields(data: bytes, wanted: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yields (field number, bytes) of the length-delimited and fixed32 fields of a message."""
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        if tag & 7 == 2:
            length, position = _read_varint(data, position)
        elif tag & 7 == 5:
            length = 4
        else:
            raise ValueError("the record is not a tf.train.Example")
        if position + length > len(data):
            raise ValueError("the record is not a tf.train.Example")
        if wanted is None or tag >> 3 == wanted:
            yield tag >> 3, data[position : position + length]
        position += length


def frame_record(payload: bytes) -> bytes:
    """Returns the payload framed as one TFRecord."""
    length = struct.pack("<Q", len(payload))
    return b"".join([length, struct.pack("<I", masked_crc32c(length)), payload, struct.pack("<I", masked_crc32c(payload))])


def read_records(path: str | os.PathLike[str], verify: bool = False) -> Iterator[bytes]:
    """Yields the payloads of a TFRecord file.

    Args:
      path: the file.
      verify: check the payloads' CRCs too (the lengths' are always checked).

    Raises:
      UserError: the file is missing, cut short or damaged.
    """
    damaged = f"record file {path} is damaged; make it again"
    try:
        with open(path, "rb") as file:
            while header := file.read(12):
                if len(header) < 12 or struct.unpack("<I", header[8:])[0] != masked_crc32c(header[:8]):
                    raise UserError(f"{damaged} (a record header is broken).")
                length = struct.unpack("<Q", header[:8])[0]
                payload, footer = file.read(length), file.read(4)
                if len(payload) < length or len(footer) < 4:
                    raise UserError(f"{damaged} (it is cut short).")
                if verify and struct.unpack("<I", footer)[0] != masked_crc32c(payload):
                    raise UserError(f"{damaged} (a record's checksum does not match).")
                yield payload
    except OSError as error:
        raise UserError(f"record file {path} could not be read ({error.strerror}); generate the set again.") from error


def record_files(directory: Path, info: Mapping[str, object], split: str = "train") -> list[Path]:
    """Returns the TFRecord files of a split, in order, from the content of `dataset_info.json`.

    Raises:
      UserError: the dataset has no such split, or is not kept as TFRecord.
    """
    splits = info.get("splits")
    found = [s for s in splits if s.get("name") == split] if isinstance(splits, list) else []
    if not found or info.get("fileFormat") != "tfrecord":
        raise UserError(f"{directory} holds no TFRecord split named {split!r}; give a set that bridgejax generated.")
    template = found[0].get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    number = len(found[0]["shardLengths"])
    digits = max(5, len(str(number)))
    files = []
    for shard in range(number):
        index, total = f"{shard:0{digits}}", f"{number:0{digits}}"
        values = {"DATASET": info["name"], "SPLIT": split, "FILEFORMAT": "tfrecord", "SHARD_INDEX": index}
        values |= {"NUM_SHARDS": total, "SHARD_X_OF_Y": f"{index}-of-{total}"}
        files.append(directory / str(template).format(**values))
    return files
