"""The unigram tokenizers of T5 folders, from `tokenizer.json` or `spiece.model`, in the library tokenizers."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridgejax.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

JSON_FILE, PIECES_FILE = "tokenizer.json", "spiece.model"
_SENTINELS = 100  # <extra_id_99> … <extra_id_0> follow the pieces in every published T5
_CONTROL, _UNKNOWN = 3, 2  # kinds of pieces
_OUTSIDE = ("<unk>", "▁")  # tokens that say nothing


class TextTokenizer:
    """Texts to ids, the end token included, and ids to texts without special tokens."""

    def __init__(self, folder: Path):
        """Reads the folder's `tokenizer.json`, or else its `spiece.model`.

        Raises:
          UserError: the folder has neither, or what it has cannot be read.
        """
        import tokenizers

        file = next((folder / name for name in (JSON_FILE, PIECES_FILE) if (folder / name).is_file()), None)
        if file is None:
            raise UserError(
                f"{folder} holds no tokenizer; expected {JSON_FILE} or {PIECES_FILE} in it, fetch the folder again."
            )
        try:
            self._backend = tokenizers.Tokenizer.from_file(str(file)) if file.name == JSON_FILE else _from_pieces(file)
        except Exception as error:  # the library raises plain Exceptions; the cause is chained
            raise UserError(f"{file} holds a tokenizer that cannot be read ({error}); fetch the folder again.") from error
        self._backend.no_truncation()
        self._backend.no_padding()
        self.file = file

    def knows(self, text: str) -> bool:
        """Returns whether any part of a text is in the vocabulary."""
        outside = {self._backend.token_to_id(token) for token in _OUTSIDE}
        return not outside.issuperset(self._backend.encode(text, add_special_tokens=False).ids)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text."""
        return [encoding.ids for encoding in self._backend.encode_batch(list(texts))]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Returns the text of each row of ids."""
        return self._backend.decode_batch([list(row) for row in ids], skip_special_tokens=True)


def _from_pieces(file: Path) -> Tokenizer:
    """Returns the tokenizer that transformers' T5Tokenizer makes of a SentencePiece file.

    Read here, since transformers does it with two further packages, sentencepiece and protobuf.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces: list[tuple[str, float]] = []
    special: list[str] = []
    unknown, end, charsmap = 0, "</s>", b""
    for field, value in _fields(file.read_bytes()):
        if field == 1 and isinstance(value, bytes):
            piece = dict(_fields(value))
            text, kind = _bytes(piece[1]).decode(), piece.get(3, 1)
            if kind in (_CONTROL, _UNKNOWN):
                special.append(text)
            unknown = len(pieces) if kind == _UNKNOWN else unknown
            pieces.append((text, struct.unpack("<f", _bytes(piece[2]))[0] if 2 in piece else 0.0))
        elif field == 3 and isinstance(value, bytes):
            charsmap = _bytes(dict(_fields(value)).get(2, b""))
    if end not in dict(pieces):
        raise ValueError(f"it has no piece {end}")
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(_SENTINELS))]
    tokenizer = Tokenizer(models.Unigram([*pieces, *((text, 0.0) for text in sentinels)], unk_id=unknown, byte_fallback=False))
    tokenizer.add_special_tokens([*special, *sentinels])
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    # The marks of these are the library's defaults, which are SentencePiece's.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", end], special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return tokenizer


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields (number, value) of each field of a protocol buffer: whole numbers as int, all else as its bytes."""
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
            continue
        size = {1: 8, 5: 4}.get(tag & 7) or (number() if tag & 7 == 2 else 0)
        if (not size and tag & 7 != 2) or place + size > len(message):
            raise ValueError("it is not a SentencePiece file, or is cut short")
        yield tag >> 3, message[place : place + size]
        place += size


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("it is not a SentencePiece file")
    return value
