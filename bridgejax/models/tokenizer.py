"""Prompts → token ids, by the CLIP tokenizer of a generator's folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bridgejax import disk_cache
from bridgejax.config import nfc
from bridgejax.errors import UserError
from bridgejax.files import check_link
from bridgejax.identity import digest, folder_digest


@dataclasses.dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer comes from, and what differs from its files."""

    folder: Path  # holds `vocab.json` and `merges.txt`, or `tokenizer.json`
    added: tuple[str, ...] = ()  # words that follow the vocabulary, one token each (textual inversion)
    # "end" pads prompts with the end token (OpenAI's CLIP), "zero" with token 0 (OpenCLIP), None as the files say.
    pad: str | None = None

    def save(self, target: Path) -> None:
        """Writes a tokenizer folder that needs no `TokenizerSource` any more.

        Args:
          target: an existing folder.

        Raises:
          UserError: the folder holds no tokenizer.
        """
        if self.added or self.pad:
            _published(self).save_pretrained(str(target))
            return
        for file in sorted(self.folder.glob("*")):
            if file.suffix in (".json", ".txt"):
                shutil.copyfile(file, target / file.name)


def holds_tokenizer(folder: Path) -> bool:
    """Returns whether a folder holds the files of a CLIP tokenizer."""
    complete = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    return complete or (folder / "tokenizer.json").is_file()


def _published(source: TokenizerSource) -> Any:
    """Returns transformers' tokenizer of a source, added words included."""
    CLIPTokenizer = _tokenizer_class()
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(source.folder), local_files_only=True)
        if source.pad is not None:
            pad = tokenizer.eos_token if source.pad == "end" else tokenizer.convert_ids_to_tokens(0)
            if pad != tokenizer.pad_token:
                tokenizer = CLIPTokenizer.from_pretrained(str(source.folder), local_files_only=True, pad_token=pad)
    except Exception as error:  # the library raises many kinds; the cause is chained
        raise UserError(f"{source.folder} holds a tokenizer that cannot be read ({error}); fetch the folder again.") from error
    for word in source.added:
        tokenizer.add_tokens(word)
    return tokenizer


def _tokenizer_class() -> Any:
    try:
        with quiet_transformers():
            from transformers import CLIPTokenizer
    except ImportError as error:
        raise UserError("prompts need the package transformers; install it with `pip install transformers`.") from error
    return CLIPTokenizer


def sentencepiece_model(file: Path) -> Any:
    """Returns what a SentencePiece file holds, as a `ModelProto` of its protocol buffer; protobuf's errors pass through."""
    with quiet_transformers():
        from transformers.convert_slow_tokenizer import import_protobuf

    model = import_protobuf().ModelProto()
    model.ParseFromString(file.read_bytes())
    return model


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Imports of transformers within come without its advice that there is no PyTorch: nothing here needs it."""
    advice = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(advice)
    os.environ[advice] = "1"
    try:
        yield
    finally:
        # Whatever else transformers has to say later is heard.
        if before is None:
            del os.environ[advice]
        else:
            os.environ[advice] = before


class Tokenizer:
    """Pads or cuts every prompt to one length and says what it cuts.

    A word that was added with several vectors stands for all of them: `<t>` in a prompt is read as `<t> <t>_1 <t>_2 …`,
    as diffusers does.

    transformers reads the folder's files, whose forms are many; the result goes to the disk cache, since
    importing it takes longer than importing jax. Prompts go to the library that it is built on, tokenizers.
    """

    def __init__(self, folder: str | Path | TokenizerSource, max_tokens: int):
        """Reads `vocab.json` and `merges.txt`, or `tokenizer.json`, with their settings.

        Args:
          folder: the tokenizer's folder, or a source with words added.
          max_tokens: the positions that the text encoder has.

        Raises:
          UserError: a package is missing, or the folder holds no tokenizer.
        """
        source = folder if isinstance(folder, TokenizerSource) else TokenizerSource(Path(folder))
        self.folder, self.max_tokens = source.folder, max_tokens
        if not holds_tokenizer(self.folder):
            for name in ("vocab.json", "merges.txt", "tokenizer.json"):
                check_link(self.folder / name)
            raise UserError(f"{self.folder} holds no tokenizer; expected vocab.json and merges.txt, or tokenizer.json.")

        def read() -> bytes:
            tokenizer = _published(source)
            ids = {"end": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
            return json.dumps({**ids, "backend": tokenizer.backend_tokenizer.to_str()}).encode()

        files = [file.name for file in self.folder.glob("*") if file.suffix in (".json", ".txt")]
        about = [
            folder_digest(self.folder, files),
            source.added,
            source.pad,
            disk_cache.versions(("transformers", "tokenizers")),
        ]
        settings = json.loads(disk_cache.get_or_make("tokenizers", digest(about), read))
        import tokenizers

        self._backend = tokenizers.Tokenizer.from_str(settings["backend"])
        # What a tokenizer.json may say of lengths is decided here instead.
        self._backend.no_truncation()
        self._backend.no_padding()
        self.end_id, self._pad_id = int(settings["end"]), int(settings["pad"])
        self._expansions = self._find_expansions()

    @property
    def size(self) -> int:
        """How many tokens there are, added ones included; the next word added gets this id."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def id_of(self, word: str) -> int | None:
        """Returns the id of a word of the vocabulary (added ones included), or None."""
        return self._backend.token_to_id(word)

    def _find_expansions(self) -> dict[str, str]:
        added = {token.content for token in self._backend.get_added_tokens_decoder().values()}
        expansions = {}
        for word in added:
            words = [word]
            while f"{word}_{len(words)}" in added:
                words.append(f"{word}_{len(words)}")
            if len(words) > 1:
                expansions[word] = " ".join(words)
        return expansions

    def _expand(self, text: str) -> str:
        """Returns the prompt with every word of several vectors written out."""
        present = [word for word in self._expansions if word in text]
        if not present:
            return text
        tokens = set(self._backend.encode(text, add_special_tokens=False).tokens)
        words = sorted((word for word in present if word in tokens), key=len, reverse=True)
        if not words:
            return text
        return re.sub("|".join(map(re.escape, words)), lambda match: self._expansions[match[0]], text)

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        """Returns int32 [n, max_tokens]; warns, showing the words cut off, when a prompt is longer."""
        texts = list(prompts)
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f"prompt {text!r} is not a string; give a list of strings.")
        if not texts:
            return np.zeros((0, self.max_tokens), np.int32)
        texts = [self._expand(nfc(text)) for text in texts]  # as CLIP's tokenizer reads them, and as words are added
        rows = np.full((len(texts), self.max_tokens), self._pad_id, np.int32)
        for row, text, encoding in zip(rows, texts, self._backend.encode_batch(texts), strict=True):
            ids = encoding.ids
            if len(ids) > self.max_tokens:
                # The decoder of CLIP's byte pairs leaves the mark of a word's end.
                cut = self._backend.decode(ids[self.max_tokens - 1 : -1], skip_special_tokens=False)
                cut = cut.replace("</w>", " ").strip()
                warnings.warn(
                    f"the text encoder takes {self.max_tokens} tokens, so a prompt was cut: {cut!r} was left out of {text!r}.",
                    stacklevel=2,
                )
                ids = [*ids[: self.max_tokens - 1], ids[-1]]
            row[: len(ids)] = ids
        return rows
