"""The one exception that a user meets."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable


class UserError(ValueError):
    """A wrong input, stated in one sentence: what is wrong, what was expected, what to do.

    The command line prints the sentence and exits with code 2 (or what `exit_code` says); from Python it is a `ValueError`.
    """

    exit_code = 2


class DamageFound(UserError):
    """A check that was asked for found damage."""

    exit_code = 1


class TryAgain(UserError):
    """What failed may succeed when the same command runs again: work that another process is still to do, a disk, a
    device, or a scheduler's signal.

    The command line prints the sentence and exits with code 75, on which schedulers try again.
    """


class Diverged(UserError):
    """Training stopped because a loss or a gradient was not finite.

    Attributes:
      message: what happened where, and what to do.
      seed: the seed of the run, by which its caller knows it.
    """

    def __init__(self, message: str, seed: int) -> None:
        super().__init__(f"training with seed {seed} diverged: {message}")
        self.message, self.seed = message, seed


def whole_number(name: str, value: object, least: int) -> int:
    """Returns the value, of Python's or NumPy's kind.

    Raises:
      UserError: it is not a whole number of at least `least`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise UserError(f"{name} is {value!r}; give a whole number of at least {least}.")
    return int(value)


def choices(value: object, options: Iterable[object]) -> str:
    """Returns the end of a sentence about a wrong value: what could stand in its place.

    Up to eight options are all shown; of more, the three nearest and how many others there are.

        >>> f"optimizer is 'sdg'; {choices('sdg', ('sgd', 'adamw'))}"
        "optimizer is 'sdg'; did you mean 'sgd'? It can be 'sgd' or 'adamw'."
    """
    known = {str(option): repr(option) for option in options}
    if not known:
        return "there is nothing to choose from."
    near = difflib.get_close_matches(str(value), known, n=3, cutoff=0.5)
    if len(known) == 1 and near:
        return f"did you mean {known[near[0]]}?"
    if len(known) <= 8:
        start = f"did you mean {known[near[0]]}? It can be" if near else "use"
        return f"{start} {either(list(known.values()))}."
    if near:
        return f"did you mean {either([known[name] for name in near])}? There are {len(known) - len(near)} others."
    near = difflib.get_close_matches(str(value), known, n=3, cutoff=0.0)
    return f"use {', '.join(known[name] for name in near)} or one of {len(known) - len(near)} others."


def either(shown: list[str]) -> str:
    """Returns "a, b or c"."""
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
