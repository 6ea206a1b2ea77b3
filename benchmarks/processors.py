"""How much of the machine other programs take while something is timed.

Taking turns evens out what comes and goes, but not a program that keeps a core busy throughout: PyTorch's threads wait for the
slowest of them at every operation and lose far more by it than XLA's, so that even a ratio of the two says nothing.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

DISTURBED = 0.1  # share of the machine taken by others from which a figure is marked
_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Clock:
    """A moment: wall seconds, processor seconds of this process, and of the whole machine (None where that is not told)."""

    wall: float
    own: float
    machine: float | None

    @classmethod
    def now(cls) -> Clock:
        """Returns this moment."""
        return cls(time.perf_counter(), time.process_time(), _busy_seconds())

    def others_since(self, began: Clock) -> float | None:
        """Returns the share of all cores that other programs took since an earlier moment; None where that is not told.

        The system counts in hundredths of a second, so intervals should be tenths of a second or longer.
        """
        wall = self.wall - began.wall
        if self.machine is None or began.machine is None or wall <= 0:
            return None
        others = (self.machine - began.machine) - (self.own - began.own)
        return min(max(others / (wall * (os.cpu_count() or 1)), 0.0), 1.0)


def _busy_seconds() -> float | None:
    """Returns the seconds that the machine's cores have worked, or were withheld from it, in sum (Linux alone tells)."""
    try:
        fields = [int(field) for field in _STAT.read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    user, nice, system, _, _, interrupts, soft, stolen = fields
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
