"""A process's peak memory, and how running out of memory is recognised."""

from __future__ import annotations

import sys
from pathlib import Path

_SIGNS = ("RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory", "not enough memory", "bad_alloc")


def peak_memory() -> int:
    """Returns the most resident memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux getrusage also counts what the parent held when it forked
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error of Python, JAX or PyTorch says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign.lower() in text for sign in _SIGNS)
