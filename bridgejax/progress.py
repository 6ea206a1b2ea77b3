"""What a person sees while work goes on: one line per stage, bars with rate and time left; quiet in a log file."""

from __future__ import annotations

import sys
from typing import Any

quiet = False  # in all processes of a command but the first


def stage_heading(text: str) -> None:
    """Prints a one-line heading on stderr."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def progress(total: int, description: str, unit: str, initial: int = 0) -> Any:
    """Returns a tqdm bar with rate and time left; silent when stderr is not a terminal.

    Use it as a context manager and call `.update(n)`.
    """
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        leave=False,
        dynamic_ncols=True,
        disable=quiet or sys.stderr is None or not sys.stderr.isatty(),
        file=sys.stderr,
    )
