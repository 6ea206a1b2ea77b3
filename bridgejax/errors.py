"""The one exception that a user meets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A wrong input, told in one sentence: what is wrong, what was expected, what to do.

    The command line prints the sentence and exits with code 2; from Python it is a `ValueError`.
    """


class Diverged(UserError):
    """Training stopped because a loss or a gradient was not finite.

    Attributes:
      told: what happened where, and what to do.
      seed: the seed of the run, by which its caller knows it.
      run: the study's run, if a study trained it.
    """

    def __init__(self, told: str, seed: int, run: Any = None) -> None:
        super().__init__(f"training with seed {seed} diverged: {told}")
        self.told, self.seed, self.run = told, seed, run


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the known word closest to `word`, else an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
