"""What the metrics take: real numbers, whole numbers, and tables of features that fit each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


def real_numbers(name: str, values: npt.ArrayLike, *, finite: bool = True) -> Floats:
    """Returns the values as float64, of any shape.

    Raises:
      UserError: rows of different lengths; text, None or complex values; or, with `finite`, NaN or infinity.
    """
    numbers = _real(name, values).astype(np.float64, copy=False)
    if finite and not np.isfinite(numbers).all():
        raise UserError(f"{name}: there is NaN or infinity among the values; give finite numbers.")
    return numbers


def whole_numbers(name: str, values: npt.ArrayLike, below: int | None = None) -> Integers:
    """Returns the values (of an integer type, or floats that are whole) as int64, of any shape.

    Raises:
      UserError: rows of different lengths, values that are not numbers, or a value that is not whole or not in [0, below).
    """
    numbers = _real(name, values)
    with np.errstate(invalid="ignore"):  # NaN and infinity become some integer, which they do not equal
        cast = numbers.astype(np.int64)
    if (cast.astype(numbers.dtype) != numbers).any() or (cast < 0).any() or (below is not None and (cast >= below).any()):
        expected = "of at least 0" if below is None else f"in [0, {below}), as there are {below} classes"
        raise UserError(f"{name} run from {numbers.min()} to {numbers.max()}; give whole numbers {expected}.")
    return cast


def check_features(least: int, largest: float, **tables: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Returns two tables, given by name, as float64 [n, d] and [m, d].

    Args:
      least: how many rows each needs.
      largest: the root mean square that no row may exceed, so that sums of its powers do not overflow.
      tables: the two.

    Raises:
      UserError: values that are not finite real numbers, shapes that do not fit, too few rows, or too large values.
    """
    (first, x), (second, y) = ((name, real_numbers(name, table)) for name, table in tables.items())
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not x.shape[1] or min(len(x), len(y)) < least:
        raise UserError(
            f"{first} {list(x.shape)} and {second} {list(y.shape)} do not fit; give features [n, d] and [m, d], "
            f"at least {least} row{'s' * (least != 1)} each."
        )
    with np.errstate(over="ignore"):
        too_large = any(np.sqrt(np.mean(table * table, axis=1)).max() > largest for table in (x, y))
    if too_large:
        raise UserError(
            f"{first} and {second} reach {max(np.abs(x).max(), np.abs(y).max()):.1e}, so that sums of powers overflow; "
            f"divide both by one number, so that the root mean square of each row is at most {largest:.0e}."
        )
    return x, y


def _real(name: str, values: npt.ArrayLike) -> npt.NDArray[np.number | np.bool_]:
    try:
        array = np.asarray(values)
        # A cast "of the same kind" leaves text, None (an object), dates and complex numbers out, and lets bfloat16 in.
        if np.can_cast(array.dtype, np.float64, "same_kind"):
            return array
        fault = f"the type is {array.dtype}"
    except (TypeError, ValueError):
        fault = "rows differ in length"
    raise UserError(f"{name} cannot be read as real numbers ({fault}); give an array of them, without text or None.")
