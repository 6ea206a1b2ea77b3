"""The changes to a generator as configs and commands write them: LoRA files with scales, learned words, other parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bridgejax.errors import UserError


def scaled_files(values: Iterable[Any], name: str) -> list[tuple[str, float]]:
    """Returns (path, scale) of each value: a pair, or a text `PATH:SCALE` or `PATH` (scale 1).

    Args:
      values: as a person wrote them.
      name: of the key or option, for messages.

    Raises:
      UserError: a value is something else, or its scale is not a finite number.
    """
    pairs: list[tuple[str, float]] = []
    for value in _listed(values, name, "(path, scale) pairs or texts PATH:SCALE"):
        path, scale = _split_scale(value, name) if isinstance(value, str) else _pair(value, name, "(path, scale)")
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
            raise UserError(f"{name} {path}: the scale {scale!r} is not a finite number; write PATH:SCALE.")
        pairs.append((path, float(scale)))
    return pairs


def word_files(values: Iterable[Any], name: str) -> dict[str, str]:
    """Returns {word: path} of values that are each a pair, or a text `WORD=PATH`; `name` as for `scaled_files`.

    Raises:
      UserError: a value is something else, or a word comes twice.
    """
    words: dict[str, str] = {}
    for value in _listed(values, name, "(word, path) pairs or texts WORD=PATH"):
        if isinstance(value, str):
            word, equals, path = value.partition("=")
            if not equals or not word or not path:
                raise UserError(f"{name} {value} is not of the form WORD=PATH.")
        else:
            word, path = _pair(value, name, "(word, path)")
            if not isinstance(path, str) or not path:
                raise UserError(f"{name}: the file of {word!r} is {path!r}; it should be a path.")
        if word in words:
            raise UserError(f"{name} names {word} twice; each word has one file.")
        words[word] = path
    return words


def loading_options(generator: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a config's `generator` hands to `load_pipeline` beside the weights' name, dtype and mesh.

    Raises:
      UserError: `loras`, `words`, `vae`, `tokenizer` or `prediction_type` are not what they should be; the key is named.
    """
    options: dict[str, Any] = {
        "loras": scaled_files(generator["loras"], "generator.loras"),
        "embeddings": word_files(generator["words"], "generator.words") or None,
    }
    for key in ("vae", "tokenizer", "prediction_type"):
        if not (generator[key] is None or (isinstance(generator[key], str) and generator[key])):
            raise UserError(f"generator.{key} is {generator[key]!r}; it should be a text, or None.")
        options[key] = generator[key]
    return options


def _listed(values: Any, name: str, wanted: str) -> list[Any]:
    if isinstance(values, Mapping) or hasattr(values, "to_dict") or not isinstance(values, Iterable):
        raise UserError(f"{name} is {values!r}; it should be a tuple of {wanted}.")
    return [values] if isinstance(values, str) else list(values)


def _pair(value: Any, name: str, wanted: str) -> tuple[str, Any]:
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not isinstance(value[0], str) or not value[0]:
        raise UserError(f"{name} holds {value!r}; each entry should be a pair {wanted}.")
    return value[0], value[1]


def _split_scale(text: str, name: str) -> tuple[str, float]:
    path, colon, scale = text.rpartition(":")
    try:
        return (path, float(scale)) if colon and path else (text, 1.0)
    except ValueError as error:
        if Path(text).exists():
            return text, 1.0
        raise UserError(f"{name} {text}: the scale {scale!r} is not a number; write PATH:SCALE.") from error
