"""Prompts → token ids, by the CLIP tokenizer of a generator's folder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bridgejax.errors import UserError


class Tokenizer:
    """Pads or cuts every prompt to one length and says what it cuts."""

    def __init__(self, folder: str | Path, max_tokens: int):
        """Reads `vocab.json` and `merges.txt`, or `tokenizer.json`, with their settings.

        Args:
          folder: the tokenizer's folder.
          max_tokens: the positions that the text encoder has.

        Raises:
          UserError: transformers is missing, or the folder holds no tokenizer.
        """
        self.folder = Path(folder)
        complete = all((self.folder / name).is_file() for name in ("vocab.json", "merges.txt"))
        if not complete and not (self.folder / "tokenizer.json").is_file():
            raise UserError(f"{self.folder} holds no tokenizer; expected vocab.json and merges.txt, or tokenizer.json.")
        try:
            from transformers import CLIPTokenizer
        except ImportError as error:
            raise UserError("prompts need the package transformers; install it with `pip install transformers`.") from error
        try:
            self._tokenizer: Any = CLIPTokenizer.from_pretrained(str(self.folder), local_files_only=True)
        except Exception as error:  # the library raises many kinds; the cause is chained
            raise UserError(
                f"{self.folder} holds a tokenizer that cannot be read ({error}); fetch the folder again."
            ) from error
        self.max_tokens = max_tokens

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        """Returns int32 [n, max_tokens]; warns, showing the words cut off, when a prompt is longer."""
        texts = list(prompts)
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f"prompt {text!r} is not a string; give a list of strings.")
        if not texts:
            return np.zeros((0, self.max_tokens), np.int32)
        encoded = self._tokenizer(texts, padding="max_length", max_length=self.max_tokens, truncation=True)["input_ids"]
        for text, whole in zip(texts, self._tokenizer(texts)["input_ids"], strict=True):
            if len(whole) > self.max_tokens:
                cut = self._tokenizer.decode(whole[self.max_tokens - 1 : -1])
                warnings.warn(
                    f"the text encoder takes {self.max_tokens} tokens, so a prompt was cut: {cut!r} was left out of {text!r}.",
                    stacklevel=2,
                )
        return np.asarray(encoded, np.int32)
