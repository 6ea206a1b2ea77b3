"""The unigram tokenizers of T5 folders, from `tokenizer.json` or `spiece.model`, in the library tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridgejax.errors import UserError
from bridgejax.models.tokenizer import sentencepiece_model

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
    """Returns the tokenizer that transformers' T5Tokenizer makes of a SentencePiece file."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    model, end = sentencepiece_model(file), "</s>"
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    if end not in dict(pieces):
        raise ValueError(f"it has no piece {end}")
    special = [piece.piece for piece in model.pieces if piece.type in (_CONTROL, _UNKNOWN)]
    unknown = next((number for number, piece in enumerate(model.pieces) if piece.type == _UNKNOWN), 0)
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(_SENTINELS))]
    tokenizer = Tokenizer(models.Unigram([*pieces, *((text, 0.0) for text in sentinels)], unk_id=unknown, byte_fallback=False))
    tokenizer.add_special_tokens([*special, *sentinels])
    if charsmap := model.normalizer_spec.precompiled_charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    # The marks of these are the library's defaults, which are SentencePiece's.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", end], special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return tokenizer
