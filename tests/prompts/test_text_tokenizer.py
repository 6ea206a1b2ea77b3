"""The tokenizer of a T5 folder, from either of its files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bridgejax.errors import UserError
from bridgejax.prompts.text_tokenizer import TextTokenizer
from tests.small_language_model import PIECES, write_text_tokenizer

KINDS = {"<pad>": 3, "</s>": 3, "<unk>": 2}


def _part(number: int, content: bytes) -> bytes:
    size = bytes([len(content)]) if len(content) < 128 else bytes([len(content) % 128 | 128, len(content) // 128])
    return bytes([number << 3 | 2]) + size + content


def write_pieces(folder: Path) -> Path:
    """Writes the `spiece.model` of `PIECES`, as SentencePiece's protocol buffer has it."""
    message = b""
    for text, score in PIECES:
        piece = _part(1, text.encode()) + b"\x15" + struct.pack("<f", score)
        message += _part(1, piece + bytes([3 << 3, KINDS.get(text, 1)]))
    file = folder / "spiece.model"
    file.write_bytes(
        message + _part(2, bytes([4 << 3, 1]) + b"\x55" + struct.pack("<f", 0.5)) + _part(3, _part(1, b"identity"))
    )
    return file


def test_both_files_give_the_same_ids_and_texts(tmp_path: Path):
    for name in ("json", "pieces"):
        (tmp_path / name).mkdir()
    write_text_tokenizer(tmp_path / "json")
    write_pieces(tmp_path / "pieces")
    a, b = TextTokenizer(tmp_path / "json"), TextTokenizer(tmp_path / "pieces")
    texts = ["a red bird", "the oddest birds", ""]
    ids = a.encode(texts)
    assert ids == b.encode(texts)
    assert ids[2] == [1]
    assert a.decode(ids) == b.decode(ids) == texts
    sentinel = len(PIECES) + 99  # <extra_id_0>
    assert b.decode([[0, *ids[0], sentinel, 0, 0]]) == ["a red bird"]


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str):
    with pytest.raises(UserError, match=r"holds no tokenizer; expected tokenizer\.json or spiece\.model"):
        TextTokenizer(tmp_path)
    whole = write_pieces(tmp_path).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) - 20])
    with pytest.raises(UserError, match=rf"{name} holds a tokenizer that cannot be read .* fetch the folder again"):
        TextTokenizer(tmp_path)
