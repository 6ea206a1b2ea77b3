"""What filters kept and dropped of the synthetic sets: a section of the report each, as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from bridgejax.prompts.classes import display_name
from bridgejax.report.charts import SHEET_CLASSES, contact_sheet, plain_table
from bridgejax.studies.filter_results import DROPPED, KEPT, SelectionPictures, SetSelection

HEADING = "Kept and dropped images"
HEADS = ("class", "kept", "dropped", "highest", "median", "lowest")


def selection_rows(selection: SetSelection) -> list[list[str]]:
    """Returns the cells of each class, as `HEADS` names them, and of all together."""
    rows = [
        [
            display_name(each.name),
            f"{each.kept:,}",
            f"{each.images - each.kept:,}",
            *(f"{value:.3f}".replace("-", "−") for value in (each.highest, each.median, each.lowest)),
        ]
        for each in selection.classes
    ]
    return [*rows, ["all", f"{selection.kept:,}", f"{selection.images - selection.kept:,}", "", "", ""]]


def selection_note(selection: SetSelection) -> str:
    """Returns one sentence or two on what was done."""
    which = f"set {selection.name!r}" if selection.name else "the synthetic set"
    arms = f" for {', '.join(selection.arms)}" if selection.arms else ""
    shots = "all" if selection.shots is None else f"the {selection.shots:,}"
    compared = f" They are compared with {shots} real images per class of the first seed."
    real = compared if "real:" in str(selection.rules) else ""
    return (
        f"Of {which}, {selection.kept:,} of {selection.images:,} images are kept{arms} by {', then '.join(selection.rules)}."
        f"{real} Highest, median and lowest: {selection.meaning}, by {selection.judge}."
    )


def filters_html(selections: Sequence[SetSelection], pictures: Sequence[SelectionPictures]) -> str:
    """Returns the sections; empty without filters."""
    text = ""
    for selection, shown in zip(selections, pictures, strict=True):
        table = plain_table(HEADS, selection_rows(selection), HEADING)
        sheet = contact_sheet(
            {"class_names": [each.name for each in selection.classes], KEPT: shown.kept, DROPPED: shown.dropped},
            kinds=((KEPT, KEPT), (DROPPED, DROPPED)),
        )
        said = "Kept: the best by the first rule, best first. Dropped: the worst, worst first."
        more = len(selection.classes) - SHEET_CLASSES
        said += f" The first {SHEET_CLASSES} classes; {more} more are not shown." if more > 0 else ""
        text += (
            f'<section><h2>{HEADING}</h2><p class="note">{escape(selection_note(selection))}</p>{table}'
            f'<p class="note" style="margin-top:22px">{said}</p>{sheet}</section>'
        )
    return text


def filters_markdown(
    selections: Sequence[SetSelection], cell: Callable[[str], str], table: Callable[[list[str], list[list[str]]], str]
) -> list[str]:
    """Returns the parts of report.md, none without filters; `cell` and `table` write as report.md does."""
    parts = []
    for selection in selections:
        rows = [[cell(text) for text in row] for row in selection_rows(selection)]
        parts += [f"## {HEADING}", cell(selection_note(selection)), table(list(HEADS), rows)]
    return parts
