"""Two processes with one fresh cache folder, one after the other, to the first image of the embedded generator."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.accelerator_parts.context import Context
from benchmarks.accelerator_parts.record import Row
from benchmarks.cold_start import run_process


def rows(context: Context) -> Iterator[Row]:
    """Yields the part's rows: the seconds of each phase of each process."""
    for case in ("empty cache", "warm cache"):
        phases = run_process("builtin:tiny_diffusion", 2 if context.smoke else 20, context.scratch / "cache")
        yield {"case": case, "to the first image, s": phases.pop("total")} | {
            f"{name}, s": value for name, value in phases.items()
        }
