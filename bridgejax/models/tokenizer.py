"""Prompts → token ids, by the CLIP tokenizer of a generator's folder."""

from __future__ import annotations

import dataclasses
import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bridgejax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer comes from, and what differs from its files.

    Attributes:
      folder: holds `vocab.json` and `merges.txt`, or `tokenizer.json`.
      added: words that follow the vocabulary, one token each (textual inversion).
      pad: "end" pads prompts with the end token (OpenAI's CLIP), "zero" with token 0 (OpenCLIP), None as the files say.
    """

    folder: Path
    added: tuple[str, ...] = ()
    pad: str | None = None

    def save(self, target: Path) -> None:
        """Writes a tokenizer folder that needs no `TokenizerSource` any more.

        Args:
          target: an existing folder.

        Raises:
          UserError: the folder holds no tokenizer.
        """
        if self.added or self.pad:
            Tokenizer(self, 77).save(target)
            return
        for file in sorted(self.folder.glob("*")):
            if file.suffix in (".json", ".txt"):
                shutil.copyfile(file, target / file.name)


def holds_tokenizer(folder: Path) -> bool:
    """Returns whether a folder holds the files of a CLIP tokenizer."""
    complete = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    return complete or (folder / "tokenizer.json").is_file()


class Tokenizer:
    """Pads or cuts every prompt to one length and says what it cuts.

    A word that was added with several vectors stands for all of them: `<t>` in a prompt is read as `<t> <t>_1 <t>_2 …`,
    as diffusers does.
    """

    def __init__(self, folder: str | Path | TokenizerSource, max_tokens: int):
        """Reads `vocab.json` and `merges.txt`, or `tokenizer.json`, with their settings.

        Args:
          folder: the tokenizer's folder, or a source with words added.
          max_tokens: the positions that the text encoder has.

        Raises:
          UserError: transformers is missing, or the folder holds no tokenizer.
        """
        source = folder if isinstance(folder, TokenizerSource) else TokenizerSource(Path(folder))
        self.folder = source.folder
        if not holds_tokenizer(self.folder):
            raise UserError(f"{self.folder} holds no tokenizer; expected vocab.json and merges.txt, or tokenizer.json.")
        try:
            from transformers import CLIPTokenizer
        except ImportError as error:
            raise UserError("prompts need the package transformers; install it with `pip install transformers`.") from error
        try:
            self._tokenizer: Any = CLIPTokenizer.from_pretrained(str(self.folder), local_files_only=True)
            if source.pad is not None:
                pad = self._tokenizer.eos_token if source.pad == "end" else self._tokenizer.convert_ids_to_tokens(0)
                if pad != self._tokenizer.pad_token:
                    self._tokenizer = CLIPTokenizer.from_pretrained(str(self.folder), local_files_only=True, pad_token=pad)
        except Exception as error:  # the library raises many kinds; the cause is chained
            raise UserError(
                f"{self.folder} holds a tokenizer that cannot be read ({error}); fetch the folder again."
            ) from error
        for word in source.added:
            self._tokenizer.add_tokens(word)
        self._expansions = self._find_expansions()
        self.max_tokens = max_tokens

    @property
    def size(self) -> int:
        """How many tokens there are, added ones included; the next word added gets this id."""
        return len(self._tokenizer)

    @property
    def end_id(self) -> int:
        """The id of the end token."""
        return int(self._tokenizer.eos_token_id)

    def id_of(self, word: str) -> int | None:
        """Returns the id of a word of the vocabulary (added ones included), or None."""
        return self._tokenizer.get_vocab().get(word)

    def save(self, folder: Path) -> None:
        """Writes the tokenizer, added words included, in the format of transformers."""
        self._tokenizer.save_pretrained(str(folder))

    def _find_expansions(self) -> dict[str, str]:
        added = self._tokenizer.added_tokens_encoder
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
        tokens = set(self._tokenizer.tokenize(text))
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
        texts = [self._expand(text) for text in texts]
        encoded = self._tokenizer(texts, padding="max_length", max_length=self.max_tokens, truncation=True)["input_ids"]
        for text, whole in zip(texts, self._tokenizer(texts)["input_ids"], strict=True):
            if len(whole) > self.max_tokens:
                cut = self._tokenizer.decode(whole[self.max_tokens - 1 : -1])
                warnings.warn(
                    f"the text encoder takes {self.max_tokens} tokens, so a prompt was cut: {cut!r} was left out of {text!r}.",
                    stacklevel=2,
                )
        return np.asarray(encoded, np.int32)
