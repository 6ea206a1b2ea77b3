"""The gains per class as a table."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from bridgejax.prompts.classes import display_name
from bridgejax.report.charts import scroll
from bridgejax.report.summary import Summary

NOTE = "In percentage points, on the same seeds and the same test images."
OF_MANY = "Each interval stands by itself: one class in twenty is off by chance."


class GainCell(NamedTuple):
    """A gain in whole points, its interval ("" if there is none), and 1 or -1 where that lies above or below zero, else 0."""

    gain: str
    interval: str
    sign: int


class GainRow(NamedTuple):
    """A class, its test images, and a cell per arm."""

    name: str
    images: int
    cells: tuple[GainCell, ...]


def gain_rows(summary: Summary) -> list[GainRow]:
    """Returns a row per class; the arms are those of `summary.class_gains`."""
    rows = []
    for index, name in enumerate(summary.classes if summary.class_gains else ()):
        cells = []
        for gains in summary.class_gains:
            gain, low, high = gains.gain[index], gains.low[index], gains.high[index]
            if gain is None or low is None or high is None:
                cells.append(GainCell("–" if gain is None else _points(gain), "", 0))
            else:
                cells.append(GainCell(_points(gain), f"{_points(low)} to {_points(high)}", int(low > 0) - int(high < 0)))
        rows.append(GainRow(display_name(name), summary.class_gains[0].images[index], tuple(cells)))
    return rows


def _points(value: float) -> str:
    """0.123 → "+12": whole points, for a class has few images."""
    text = f"{100 * value:+.0f}"
    return "0" if text in ("+0", "-0") else text.replace("-", "−")


def gain_table(summary: Summary) -> str:
    """Returns the table as HTML; empty without gains."""
    rows = gain_rows(summary)
    if not rows:
        return ""
    arms = [gains.arm for gains in summary.class_gains]
    heads = "".join(f'<th scope="col" class="n">{escape(arm).replace("_", "_<wbr>")}</th>' for arm in arms)
    body = ""
    for row in rows:
        cells = "".join(
            f'<td class="n">{f"<b>{cell.gain}</b>" if cell.sign else cell.gain}'
            f"{f'<small>{cell.interval}</small>' if cell.interval else ''}</td>"
            for cell in row.cells
        )
        body += f'<tr><th scope="row">{escape(row.name)}</th><td class="n">{row.images:,}</td>{cells}</tr>'
    head = '<th scope="col">class</th><th scope="col" class="n">test images</th>'
    table = f"<table><thead><tr>{head}{heads}</tr></thead><tbody>{body}</tbody></table>"
    return scroll(table, "Gain per class in percentage points", "gains")


def gain_note(summary: Summary) -> str:
    """Returns what the table shows, in words."""
    note = f"Each arm minus {summary.baseline}. {NOTE}"
    if len(summary.seeds) > 1:
        note += f" Bold where the 95 % interval does not include zero. {OF_MANY}"
    return note
