"""Accuracy against what it costs: the time of a run, with that of making its images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from bridgejax.report.phrases import duration, percent
from bridgejax.report.summary import ArmSummary, Summary

_ROW = 24  # pixels of a label
_LEAST = 190  # pixels of a panel
_PANELS = 8


def price(summary: Summary, arm: ArmSummary) -> float | None:
    """Returns the seconds of a run: training, evaluation, and its images, made for it alone; None if unknown."""
    spent = [value for name, value in arm.seconds.items() if name != "input_stall" and value is not None]
    if not spent:
        return None
    most = max((each.per_class or 0 for each in summary.arms.values()), default=0)
    made = summary.seconds.get("generate", 0.0) * (arm.per_class or 0) / most if most else 0.0
    return sum(spent) + made


def price_chart(summary: Summary) -> str:
    """Returns a panel per setting, every arm a dot; empty where no run says what it took."""
    settings: dict[str, list[tuple[str, float, float]]] = {}
    for entry in summary.order:
        arm = summary.arms[entry]
        cost, level = price(summary, arm), arm.test_mean_per_class_accuracy
        if cost is not None and level is not None:
            settings.setdefault(arm.setting, []).append((entry, cost, level.mean))
    every = [row for rows in settings.values() for row in rows]
    if not every:
        return ""
    most = max(cost for _, cost, _ in every) * 1.04
    low = math.floor(min(level for *_, level in every) * 10) / 10
    high = max(low + 0.1, math.ceil(max(level for *_, level in every) * 10) / 10)
    panels = [_panel(summary, words, rows, most, low, high) for words, rows in list(settings.items())[:_PANELS]]
    return f'<div class="prices">{"".join(panels)}</div>'


def _panel(summary: Summary, words: str, rows: Sequence[tuple[str, float, float]], most: float, low: float, high: float) -> str:
    """Returns one panel; labels stand beside the plot, as near to the height of their dots as they fit."""
    height = max(_LEAST, _ROW * len(rows))
    ranked = sorted(rows, key=lambda row: -row[2])
    wanted = [height * (high - level) / (high - low) for *_, level in ranked]
    places: list[float] = []
    for number, place in enumerate(wanted):
        least = places[-1] + _ROW if places else _ROW / 2
        places.append(max(least, min(place, height - _ROW * (len(wanted) - number - 0.5))))
    marks, dots, labels, said = "", "", "", []
    ticks = [low + (high - low) * part for part in (0, 0.5, 1)]
    for tick in ticks:
        marks += f'<path class="grid" d="M0,{100 * (high - tick) / (high - low):.2f}H100"/>'
        labels += f'<i class="y" style="bottom:{100 * (tick - low) / (high - low):.2f}%">{100 * tick:.0f}</i>'
    for (entry, cost, level), place in zip(ranked, places, strict=True):
        arm = summary.arms[entry]
        kind = " focus" if arm.arm == summary.focus else " base" if arm.arm == summary.baseline else ""
        x, y, end = 100 * cost / most, 100 * (high - level) / (high - low), 100 * place / height
        marks += f'<path class="lead" d="M{x:.2f},{y:.2f}L100,{end:.2f}"/>'
        dots += f'<b class="dot{kind}" style="left:{x:.2f}%;top:{y:.2f}%"></b>'
        dots += (
            f'<span class="tag{kind}" style="top:{place:.1f}px" title="{duration(cost)}">'
            f"{escape(arm.arm).replace('_', '_<wbr>')}</span>"
        )
        said.append(f"{arm.arm}: {percent(level)} for {duration(cost)}")
    heading = f"<figcaption><b>{escape(words)}</b></figcaption>" if words else ""
    return (
        f'<figure>{heading}<div class="plot price" style="height:{height}px"><svg role="img" '
        f'aria-label="{escape("; ".join(said))}" viewBox="0 0 100 100" preserveAspectRatio="none">{marks}</svg>{labels}{dots}'
        f'<i class="x first" style="left:0">0</i><i class="x last" style="left:100%">{duration(most / 1.04)}</i></div></figure>'
    )
