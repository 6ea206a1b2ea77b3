"""Memory that a program's step frees stays with the process, so that the next step need not ask the kernel for it again.

XLA's CPU backend takes the temporaries of a program from the C library at every call and gives them back after it. glibc maps
and unmaps such large pieces each time, and the kernel zeroes every page anew: up to a third of a training step on a CPU.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
from importlib.metadata import entry_points

# Set to "default" to leave the C library's settings alone.
SETTING = "BRIDGEJAX_ALLOCATOR"
# glibc's mallopt, by the numbers of its malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
# One arena is shared by all threads; with many of them, waiting for it would cost more than the pages do.
_MOST_CORES = 16


@functools.cache
def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory, where programs run on the CPU of a small machine; returns whether it does.

    It counts for threads that start afterwards, so rooms that run programs call it when they are imported. The process then
    holds on to the most memory that it ever used. Nothing changes where another C library serves, an accelerator's plugin is
    installed, or the environment says `BRIDGEJAX_ALLOCATOR=default`.
    """
    if os.environ.get(SETTING) == "default" or platform.libc_ver()[0] != "glibc" or (os.cpu_count() or 1) > _MOST_CORES:
        return False
    if entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu"):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # No piece is mapped by itself; all come from the heap that every thread shares, which grows by 64 MiB and never shrinks.
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_TOP_PAD, 64 << 20)])
