"""LoRA files with scales and files of learned tokens, as configs and commands write them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from bridgejax.errors import UserError


def scaled_files(values: Iterable[str | tuple[str, float]], name: str) -> list[tuple[str, float]]:
    """Returns (path, scale) of each value: a pair, or a text `PATH:SCALE` or `PATH` (scale 1).

    Args:
      values: as a person wrote them.
      name: of the key or option, for messages.

    Raises:
      UserError: a path is empty, or a scale is not a finite number.
    """
    pairs = [_split_scale(value, name) if isinstance(value, str) else value for value in values]
    for path, scale in pairs:
        if not path:
            raise UserError(f"{name} has an empty path; write PATH:SCALE.")
        if not math.isfinite(scale):
            raise UserError(f"{name} {path}: the scale {scale!r} is not a finite number; write PATH:SCALE.")
    return [(path, float(scale)) for path, scale in pairs]


def word_files(values: Iterable[str | tuple[str, str]], name: str) -> dict[str, str]:
    """Returns {token: path} of values that are each a pair, or a text `TOKEN=PATH`; `name` as for `scaled_files`.

    Raises:
      UserError: a token or a path is empty, or a token comes twice.
    """
    files: dict[str, str] = {}
    for value in values:
        token, _, path = value.partition("=") if isinstance(value, str) else (value[0], "", value[1])
        if not token or not path:
            raise UserError(f"{name} {value} is not of the form WORD=PATH.")
        if token in files:
            raise UserError(f"{name} names {token} twice; each word has one file.")
        files[token] = path
    return files


def _split_scale(text: str, name: str) -> tuple[str, float]:
    path, colon, scale = text.rpartition(":")
    try:
        return (path, float(scale)) if colon and path else (text, 1.0)
    except ValueError as error:
        if Path(text).exists():
            return text, 1.0
        raise UserError(f"{name} {text}: the scale {scale!r} is not a number; write PATH:SCALE.") from error
