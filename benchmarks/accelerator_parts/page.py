"""The results as a summary for programs and a page for readers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator_parts.budget import Part
from benchmarks.accelerator_parts.record import Found, Record, Row


def write(record: Record, parts: Sequence[Part]) -> None:
    """Writes the summary (.json) and the page (.md) beside the record's file, each whole or not at all."""
    run, found = record.run(), record.parts()
    summary = {"run": run, "parts": {name: vars(part) for name, part in found.items()}}
    _replace(record.file.with_suffix(".json"), json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    _replace(record.file.with_suffix(".md"), markdown(run, found, parts))


def _replace(file: Path, text: str) -> None:
    aside = file.with_name(f".{file.name}.new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)


def markdown(run: Row, found: dict[str, Found], parts: Sequence[Part]) -> str:
    """Returns the page: a section with a table for each part of which anything is known."""
    facts = next((row for row in found["facts"].rows if row.get("case") == "device"), {}) if "facts" in found else {}
    device = facts.get("device", "a device that is not known")
    text = f"# Measured on an accelerator\n\n`{run.get('command', 'python -m benchmarks accelerator')}`, on {device}."
    if run.get("smoke"):
        text += " This was a smoke run with tiny shapes: it shows that every part works, and its times say nothing."
    text += "\nWhat each part measures, and the tolerances: docs/accelerator.md.\n"
    for part in parts:
        if part.name in found:
            text += _section(part, found[part.name])
    return text


def _section(part: Part, found: Found) -> str:
    state = {"done": "done", "running": "not finished"}.get(found.status, found.status)
    told = f"{part.name}: {state}" + (f" after {found.seconds:.0f} s" if found.seconds else "")
    told += f" ({found.why.rstrip('.')})" if found.why else ""
    text = f"\n## {part.title}\n\n{told}.\n"
    notes = [row["note"] for row in found.rows if set(row) == {"case", "note"}]
    rows = [row for row in found.rows if set(row) != {"case", "note"}]
    for group in _alike(rows):
        text += "\n" + table(group)
    return text + "".join(f"\n{note}\n" for note in notes)


def _alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Returns the rows in groups that are tables of their own: a row that shares no column with those before begins one."""
    groups: list[list[Row]] = []
    for row in rows:
        if groups and any(key in known for known in groups[-1] for key in row if key != "case"):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def table(rows: Sequence[Row]) -> str:
    """Returns a Markdown table: a line for each row, a column for each key that any of them has."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    if len(rows) == 1:
        lines = ["| | |", "| --- | --- |", *(f"| {key} | {shown(value)} |" for key, value in rows[0].items())]
        return "\n".join(lines) + "\n"
    right = {key: all(isinstance(row.get(key, 0), (int, float)) for row in rows) for key in keys}
    lines = [f"| {' | '.join(keys)} |", f"|{'|'.join(' ---: ' if right[key] else ' --- ' for key in keys)}|"]
    lines += [f"| {' | '.join(shown(row.get(key)) for key in keys)} |" for row in rows]
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    """Returns a cell: numbers to three digits, nothing for None, and no character that would end the cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value) or value == 0:
            return str(value)
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"
    return " ".join(str(value).split()).replace("|", "\\|")
