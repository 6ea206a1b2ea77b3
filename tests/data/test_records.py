"""Our TFRecord files and Examples are TensorFlow's."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgejax.data.records import decode_example, encode_example, frame_record, read_records
from bridgejax.data.tensorflow import import_tensorflow
from bridgejax.errors import UserError


def test_files_are_those_of_tensorflow(tmp_path):
    tf = import_tensorflow()
    payloads = [bytes((i * 7 + size) & 255 for i in range(size)) for size in (0, 1, 2047, 2048, 2049, 6001, 70_001)]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for payload in payloads:
            writer.write(payload)
    assert (tmp_path / "theirs").read_bytes() == b"".join(map(frame_record, payloads))
    assert list(read_records(tmp_path / "theirs", verify=True)) == payloads


values = st.one_of(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=300), st.text(max_size=40))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), values, max_size=5))
def test_examples_are_those_of_tensorflow(features):
    tf = import_tensorflow()
    data = encode_example(features)
    parsed = tf.train.Example.FromString(data)
    # A map's order on the wire is free: the content and nothing more must be there.
    assert len(parsed.SerializeToString()) == len(data)
    assert set(parsed.features.feature) == set(features)
    for name, value in features.items():
        plain = value.encode() if isinstance(value, str) else value
        feature = parsed.features.feature[name]
        kind = feature.int64_list if isinstance(value, int) else feature.bytes_list
        assert list(kind.value) == [plain] == decode_example(data)[name]


def test_damage_is_found(tmp_path):
    good = frame_record(b"a" * 100)
    for data, words in (
        (good[:-5], "it is cut short"),
        (b"\0" + good[1:], "a record header is broken"),
        (good[:50] + b"b" + good[51:], "a record's checksum does not match"),
    ):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(UserError, match=rf"file is damaged; make it again \({words}\)\.$"):
            list(read_records(tmp_path / "file", verify=True))
    with pytest.raises(ValueError, match=r"^the record is not a tf\.train\.Example$"):
        decode_example(struct.pack("<Q", 2**60))
