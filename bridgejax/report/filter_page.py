"""What `bridgejax filter` shows: a page with pictures, and a table for the terminal."""

from __future__ import annotations

from html import escape
from pathlib import Path

from bridgejax.files import write_atomic
from bridgejax.report.filter_section import HEADS, filters_html, selection_note, selection_rows
from bridgejax.report.page import document
from bridgejax.studies.filtering import FilterOutcome

FILTER_PAGE = "filter.html"


def write_filter_page(outcome: FilterOutcome, workdir: Path) -> Path:
    """Writes filter.html into a workdir and returns its path."""
    fault = f'<p class="finding">{escape(outcome.fault)}</p>' if outcome.fault else ""
    kept, images = (sum(getattr(each, part) for each in outcome.selections) for part in ("kept", "images"))
    title = f"{kept:,} of {images:,} generated images kept"
    header = f'<header><p class="kicker">bridgejax filter</p><h1>{title}</h1>{fault}</header>\n'
    body = header + filters_html(outcome.selections, outcome.pictures)
    write_atomic(workdir / FILTER_PAGE, document(f"{title} – bridgejax", body))
    return workdir / FILTER_PAGE


def filter_text(outcome: FilterOutcome) -> str:
    """Returns what is kept of each class as lines of text."""
    lines = []
    for selection in outcome.selections:
        table = [list(HEADS), *selection_rows(selection)]
        widths = [max(len(row[i]) for row in table) for i in range(len(HEADS))]
        lines.append(selection_note(selection))
        for name, *cells in table:
            columns = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join([name.ljust(widths[0]), *columns]).rstrip())
    return "\n".join(lines)
