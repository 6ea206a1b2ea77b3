"""How much memory is free on the device that trains."""

from __future__ import annotations

import os
from pathlib import Path

import jax

_SHARE = 0.9  # of what is free: the rest is for batches, evaluation and what the allocator cannot use


def free_bytes() -> int:
    """Returns the bytes that a program may take on the first device: nine tenths of what is free.

    On an accelerator that is its limit less what is in use; on a CPU what Linux tells as available, elsewhere half of
    the machine's memory.
    """
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(_SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return int(_SHARE * available)
