"""What a number may be, and what a user reads where it is not."""

from __future__ import annotations

import math

import numpy as np

from bridgejax.errors import UserError


def check_number(key: str, value: object, *, most: float = math.inf, below: float = math.inf, above_zero: bool = False) -> None:
    """Checks that `value` is a finite number of at least 0 (above 0 with `above_zero`), at most `most` and below `below`.

    Raises:
      UserError: it is not; the sentence names `key`.
    """
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if number and 0 <= float(value) < below and float(value) <= most and not (above_zero and value == 0):  # type: ignore[arg-type]
        return
    if most < math.inf:
        expected = f"number from 0 to {most:g}"
    elif below < math.inf:
        expected = f"number from 0 to below {below:g}"
    elif above_zero and number:
        expected = "number above 0"
    else:
        expected = f"finite number {'above 0' if above_zero else 'of at least 0'}"
    raise UserError(f"{key} is {value!r}; give a {expected}.")
