"""What the pages under docs/results share: Markdown tables, and accuracies with their intervals in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Returns the lines of a table; the first `left` columns hold words, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(heads) - left)
    return ["| " + " | ".join(row) + " |" for row in (heads, rule, *rows)]


def level(found: Mapping[str, Any]) -> str:
    """Returns an accuracy, {"mean", "low", "high"} of which the ends may be None, as "57.1 (52.0 to 61.3)"."""
    ends = "" if found["low"] is None else f" ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
    return f"{100 * found['mean']:.1f}{ends}"


def points(found: Mapping[str, Any]) -> str:
    """Returns a difference of accuracies, with keys as in `level`, as "−3.2 (−5.0 to −1.4)"."""
    ends = "" if found["low"] is None else f" ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
    return f"{100 * found['mean']:+.1f}{ends}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")
