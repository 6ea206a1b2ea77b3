"""What each arm gains over the baseline, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from bridgejax.prompts.classes import display_name
from bridgejax.studies.statistics import LEVEL, Study

REPLICATES = 1000  # a class is one of many, and its interval is wide: less would do
NOTE = "In percentage points, on the same seeds and the same test images."
OF_MANY = "Each interval stands by itself: one class in twenty lies off by chance."


def class_gains(study: Study, arm: str, against: str, classes: int) -> dict[str, Any] | None:
    """Returns "gain", "low", "high" and "images" by class as lists; None for a class that was not tested.

    Args:
      study: the runs of one setting.
      arm, against: two of its arms.
      classes: how many there are.

    Returns:
      None if the runs do not tell each test image's class and answer, or share no seed. With one seed `low` and `high` hold
      None alone.
    """
    from bridgejax.evaluation import per_class_gain

    if study.correct is None or not study.labelled or not classes:
        return None
    a, b = (study.correct[:, :, study.arms.index(name)].T for name in (arm, against))
    both = np.isfinite(a - b).any(axis=1)
    if not both.any():
        return None
    found = per_class_gain(a[both], b[both], study.strata, classes, replicates=REPLICATES, level=LEVEL)
    ends = [None] * classes
    return {
        "gain": _plain(found.gain),
        "low": _plain(found.low) if both.sum() > 1 else ends,
        "high": _plain(found.high) if both.sum() > 1 else ends,
        "images": found.images.tolist(),
    }


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def gain_rows(summary: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, int, list[tuple[str, str, int]]]]]:
    """Returns the arms, and for each class its name, its test images and one (gain, interval, sign) per arm.

    The sign is 1 or -1 where the interval lies above or below zero, else 0.
    """
    gains = summary.get("class_gains") or []
    rows = []
    for index, name in enumerate(summary["classes"] if gains else ()):
        cells = []
        for one in gains:
            gain, low, high = (one[key][index] for key in ("gain", "low", "high"))
            words = "–" if gain is None else _points(gain)
            ends = "" if gain is None or low is None else f"{_points(low)} to {_points(high)}"
            cells.append((words, ends, int(low > 0) - int(high < 0) if ends else 0))
        rows.append((display_name(name), gains[0]["images"][index], cells))
    return [one["arm"] for one in gains], rows


def _points(value: float) -> str:
    """0.123 → "+12": whole points, for a class has few images."""
    text = f"{100 * value:+.0f}"
    return "0" if text in ("+0", "-0") else text.replace("-", "−")


def gain_table(summary: Mapping[str, Any]) -> str:
    """The table as HTML; empty without gains."""
    from bridgejax.studies.plots import scroll

    arms, rows = gain_rows(summary)
    if not rows:
        return ""
    heads = "".join(f'<th scope="col" class="n">{escape(arm).replace("_", "_<wbr>")}</th>' for arm in arms)
    body = ""
    for name, images, cells in rows:
        told = "".join(
            f'<td class="n">{f"<b>{words}</b>" if sign else words}{f"<small>{ends}</small>" if ends else ""}</td>'
            for words, ends, sign in cells
        )
        body += f'<tr><th scope="row">{escape(name)}</th><td class="n">{images:,}</td>{told}</tr>'
    head = '<th scope="col">class</th><th scope="col" class="n">test images</th>'
    return scroll(
        f"<table><thead><tr>{head}{heads}</tr></thead><tbody>{body}</tbody></table>", "Gain per class in percentage points"
    )


def gain_note(summary: Mapping[str, Any]) -> str:
    """What the table shows, in words."""
    note = f"Each arm minus {summary['baseline']}. {NOTE}"
    if len(summary["seeds"]) > 1:
        note += f" Bold where the 95 % interval leaves out zero. {OF_MANY}"
    return note
