"""Sides of comparisons that fail, or do next to nothing."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.worker import Prepared

LARGEST = 4  # images that "fit into memory"


def steady(value: float = 1.0, **given: Any) -> Prepared:
    """A call of about a millisecond whose sample is `value`; it tells what it was given."""
    print("a library's chatter on stdout is no answer")
    return Prepared(lambda: time.sleep(0.001), lambda result: [value], {"given": given})


def wrong(**given: Any) -> Prepared:
    """Fails while it prepares."""
    raise ValueError("the weights do not fit\nand a second line")


def fails_later(**given: Any) -> Prepared:
    """Its second call fails."""
    calls = iter([None])
    return Prepared(lambda: next(calls))


def killed(**given: Any) -> Prepared:
    """Ends as a process does that the system kills when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError("unreachable")


def leaves(**given: Any) -> Prepared:
    """Ends its process with a last word."""
    print("the last word", file=sys.stderr, flush=True)
    os._exit(3)


def small(batch: int) -> Prepared:
    """Runs out of memory beyond `LARGEST` images."""
    if batch > LARGEST:
        raise MemoryError("RESOURCE_EXHAUSTED: out of memory")
    return Prepared(lambda: None)


def without_timm(**given: Any) -> Prepared:
    """Imports timm where it is not installed."""

    class Blocker:
        """Finds timm nowhere."""

        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name.partition(".")[0] == "timm":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.modules.pop("timm", None)
    sys.meta_path.insert(0, Blocker())
    import timm

    return Prepared(lambda: timm)


def compiles_once(file: str, **given: Any) -> Prepared:
    """Takes longer in the process that finds no such file, and most of all in its first call."""
    seconds = [0.05, 0.02] if not Path(file).exists() else [0.001, 0.001]
    Path(file).touch()
    calls = iter([seconds[0]])
    return Prepared(lambda: time.sleep(next(calls, seconds[1])))
