"""Texts → token ids for SigLIP (a sentencepiece vocabulary) and SigLIP 2 (Gemma's), by the files of their folders."""

from __future__ import annotations

import json
import string
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bridgejax.errors import UserError
from bridgejax.files import JSONObject, read_json_object
from bridgejax.models.tokenizer import quiet_transformers, sentencepiece_model

if TYPE_CHECKING:
    import tokenizers

_SENTENCEPIECE = ("spiece.model", "tokenizer.model")
_UNPUNCTUATED = str.maketrans("", "", string.punctuation)


class SigLIPTokenizer:
    """Pads or cuts every text to one length, as both families were trained, and says what it cuts.

    Texts are lower-cased; for SigLIP 1 punctuation goes too, and white space becomes single spaces.

    `tokenizer.json` goes before a sentencepiece model, which transformers translates for the package tokenizers.
    """

    def __init__(self, folder: Path, max_tokens: int, vocab_size: int, pad_id: int | None = None):
        """Reads `tokenizer.json`, or else `spiece.model` or `tokenizer.model`, with `tokenizer_config.json` where it is there.

        Args:
          folder: of the model.
          max_tokens: the positions that the text tower has.
          vocab_size: the tokens that it knows.
          pad_id: what texts are padded with where the tokenizer's files do not say it.

        Raises:
          UserError: there is no tokenizer, its file cannot be read, or it does not fit the text tower.
        """
        file = folder / "tokenizer.json"
        models = [folder / name for name in _SENTENCEPIECE if (folder / name).is_file()]
        config_file = folder / "tokenizer_config.json"
        config = read_json_object(config_file, "fetch the folder again") if config_file.is_file() else {}
        if file.is_file():
            self._backend, self._end = _read_json(file), None
        elif models:
            file = models[0]
            self._backend = _read_sentencepiece(file)
            # A sentencepiece model says nothing of what ends a text.
            self._end = self._special(config, "eos_token", ("</s>", "<eos>"), file)
        else:
            raise UserError(f"{folder} holds no SigLIP tokenizer; expected tokenizer.json or {' or '.join(_SENTENCEPIECE)}.")
        padding = self._backend.padding or {}
        self._backend.no_truncation()
        self._backend.no_padding()
        kind, model = str(config.get("tokenizer_class")), json.loads(self._backend.to_str())["model"]["type"]
        self._gemma = "Gemma" in kind or "Siglip2" in kind or (model == "BPE" and "Siglip" not in kind)
        self._left = config.get("padding_side", padding.get("direction")) == "left"
        if "pad_token" in config or padding.get("pad_id") is None:
            self._pad = self._special(config, "pad_token", ("<pad>",) if self._gemma else ("</s>",), file, pad_id)
        else:
            self._pad = int(padding["pad_id"])
        self.max_tokens = max_tokens
        known = self._backend.get_vocab_size(with_added_tokens=True)
        if known > vocab_size:
            raise UserError(
                f"{file} holds {known} tokens, but the text tower knows {vocab_size}; take the tokenizer of the same model."
            )

    def _special(self, config: JSONObject, key: str, usual: Sequence[str], file: Path, default: int | None = None) -> int:
        """Returns the id of a special token: the config's, or the first of the usual ones that there is, or the default."""
        said = config.get(key)
        if isinstance(said, dict):
            said = said.get("content")
        names = (said,) if isinstance(said, str) else usual
        found = next((number for name in names if (number := self._backend.token_to_id(name)) is not None), None)
        if found is None and not isinstance(said, str):
            found = default
        if found is None:
            raise UserError(f"{file} holds no token {' or '.join(names)}, the {key} of SigLIP; fetch the folder again.")
        return found

    def _plain(self, text: str) -> str:
        if not isinstance(text, str):
            raise UserError(f"prompt {text!r} is not a string; give a list of strings.")
        lower = text.lower()
        return lower if self._gemma else " ".join(lower.translate(_UNPUNCTUATED).split())

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        """Returns int32 [n, max_tokens]; warns when a prompt is longer: its end is cut off, the end token stays."""
        texts = [self._plain(text) for text in prompts]
        rows = np.full((len(texts), self.max_tokens), self._pad, np.int32)
        for row, text, encoding in zip(rows, texts, self._backend.encode_batch(texts), strict=True):
            ids = encoding.ids if self._end is None else [*encoding.ids, self._end]
            if len(ids) > self.max_tokens:
                warnings.warn(f"the text tower takes {self.max_tokens} tokens, so a text was cut: {text!r}.", stacklevel=2)
                ids = [*ids[: self.max_tokens - 1], ids[-1]]
            if ids:
                row[-len(ids) if self._left else 0 :][: len(ids)] = ids
        return rows


def _read_json(file: Path) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises the bare class
        raise _unreadable(file, error) from error


def _read_sentencepiece(file: Path) -> tokenizers.Tokenizer:
    """Translates a sentencepiece model: its settings, with unigram scores or merges."""
    try:
        with quiet_transformers():
            from transformers.convert_slow_tokenizer import SpmConverter

        model = sentencepiece_model(file)
        pieces = [(piece.piece, piece.score) for piece in model.pieces]
        if not pieces:
            raise ValueError("it holds no pieces")
        unigram = model.trainer_spec.model_type == 1
        vocabulary = pieces if unigram else {piece: number for number, (piece, _) in enumerate(pieces)}
        return SpmConverter.build_tokenizer_from_spm_proto(model, vocabulary)
    except Exception as error:  # protobuf, transformers and tokenizers raise many kinds; the cause is chained
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{file} holds a SigLIP tokenizer that cannot be read ({reason}); fetch the folder again.")
