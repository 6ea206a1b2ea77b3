"""Medians and ratios of times that were taken in turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A median with the least and the greatest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Returns the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def shown(self, digits: int = 3) -> str:
        """Returns the spread as "1.05 (0.98 to 1.11)"."""
        return "{} ({} to {})".format(*(f"{value:.{digits}g}" for value in (self.median, self.low, self.high)))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Returns the spread of ours ÷ theirs, turn by turn: what slows the machine for a while slows both of a pair.

    Raises:
      ValueError: there are not as many of one as of the other.
    """
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])
