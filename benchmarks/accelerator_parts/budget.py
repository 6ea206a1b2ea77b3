"""How the seconds of a run are shared out among its parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
      name: on the command line and in the results.
      title: its heading on the page.
      module: in this package, with `rows(context)`.
      seconds: what it may take.
      least: seconds with which it is worth beginning.
    """

    name: str
    title: str
    module: str
    seconds: float
    least: float


@dataclass(frozen=True)
class Share:
    """What a part gets: `seconds`, or 0 and the reason `why` it is not begun."""

    seconds: float
    why: str = ""


class Budget:
    """The seconds of a whole run, counted from its start.

    Parts come in the order of their worth. Each may take its own seconds, and what the run has beyond the seconds of this part
    and those after it: what one part leaves, the next may use, and a run shorter than the sum drops its last parts.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        """Starts counting; `clock` tells seconds from any fixed moment."""
        self.seconds = seconds
        self._clock = clock
        self._began = clock()

    def left(self) -> float:
        """Returns the seconds that remain, at least 0."""
        return max(0.0, self.seconds - (self._clock() - self._began))

    def share(self, part: Part, later: Sequence[Part]) -> Share:
        """Returns what a part gets.

        Args:
          part: about to begin.
          later: the parts after it.
        """
        left = self.left()
        if left < part.least:
            return Share(0.0, f"{left:.0f} s of the run's {self.seconds:.0f} s were left and it needs {part.least:.0f} s")
        spare = max(0.0, left - part.seconds - sum(other.seconds for other in later))
        return Share(min(left, part.seconds + spare))
