"""The report's section on the synthetic set, as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from bridgejax.prompts.classes import display_name
from bridgejax.studies.words import percent

HEADING, LEEP_HEADING = "The synthetic set", "LEEP"


def _rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, value, what it means)."""
    frechet, kernel, copies = found["frechet"], found["kernel"], found["copies"]
    level = f"{100 * frechet['level']:.0f} %"
    rows = [
        (
            "Fréchet distance",
            f"{frechet['estimate']:.4g} ({level}: {frechet['low']:.4g} to {frechet['high']:.4g})",
            "0 for equal sets; too large for few images, which the interval corrects as far as it can",
        ),
        (
            "kernel distance",
            f"{kernel['distance']:.4g} ± {kernel['standard_error']:.2g}",
            "0 for equal sets, whatever their size; ± one standard error",
        ),
    ]
    less = found.get("frechet_less_first")
    if less is not None:
        rows.append(
            (
                "Fréchet distance less the first set's",
                f"{less['estimate']:+.4g} ({level}: {less['low']:+.4g} to {less['high']:+.4g})".replace("-", "−"),
                "below 0: nearer to the real images; the bias of few images cancels",
            )
        )
    if found["precision"] is not None:
        rows += [
            ("precision", percent(found["precision"]), f"synthetic images among the real ones (k = {found['k']})"),
            ("recall", percent(found["recall"]), "real images among the synthetic ones"),
        ]
    share = f"{100 * copies['quantile']:.0f} %"
    rows.append(
        (
            "suspected copies",
            f"{copies['suspected']:,} by features, {copies['pixel_suspected']:,} by pixels, "
            f"{copies['both_suspected']:,} by both",
            f"as near to a real image as only {share} of real images are to each other; look at the pairs below",
        )
    )
    return rows


def _note(found: Mapping[str, Any]) -> str:
    shots = "all" if found["shots"] is None else f"{found['shots']} per class"
    which = {
        "train": f"the {found['real_images']:,} training images of the first seed ({shots})",
        "test": f"the {found['real_images']:,} test images of the first seed, as a report alone",
    }[found["against"]]
    counts = " and ".join(f"{count:,}" for count in dict.fromkeys(one["synthetic_images"] for one in found["sets"]))
    width = found["sets"][0]["feature_width"]
    return (
        f"{counts} synthetic images against {which}, in the {width:,} features of {found['classifier']}. "
        "Nothing is chosen by these figures."
    )


def _set_name(found: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    """What a set is called where there are several; "" for the only one."""
    return "" if len(found["sets"]) == 1 else f"Set {one['name']!r}" if one["name"] else "The config's own set"


def _leep_note(found: Mapping[str, Any]) -> str:
    return (
        f"How well the network's outputs already tell the classes of the {found['leep'][0]['images']:,} real training images "
        "of the first seed, in nats, at most 0. Plain LEEP depends on how many outputs there are; the matched score gives "
        "every network as many pseudo-classes as there are classes."
    )


def _leep_cells(found: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            row["network"],
            "–" if row["outputs"] is None else f"{row['outputs']:,}",
            _signed(row["leep"]),
            _signed(row["leep_matched"]),
        ]
        for row in found["leep"]
    ]


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


_LEEP_HEADS = ("network", "outputs", "LEEP", "matched LEEP")
_PAIR_HEADS = ("synthetic", "nearest real", "cosine distance", "pixel distance")


def synthetic_html(found: Mapping[str, Any] | None, pairs: Sequence[np.ndarray]) -> str:
    """Returns the section(s) of report.html; empty without figures."""
    from bridgejax.studies.plots import scroll

    if not found:
        return ""
    text = ""
    if found.get("sets"):
        body = ""
        for number, one in enumerate(found["sets"]):
            name = _set_name(found, one)
            rows = "".join(
                f'<tr><th scope="row">{escape(what)}</th><td>{escape(value)}</td><td>{escape(means)}</td></tr>'
                for what, value, means in _rows(one)
            )
            body += f'<h3 style="margin-top:22px">{escape(name)}</h3>' if name else ""
            body += scroll(f"<table><tbody>{rows}</tbody></table>", name or HEADING)
            body += _pairs_html(one, pairs[number] if number < len(pairs) else None)
        text += f'<section><h2>{HEADING}</h2><p class="note">{escape(_note(found))}</p>{body}</section>'
    if found.get("leep"):
        heads = "".join(f'<th scope="col"{" class=n" if i else ""}>{head}</th>' for i, head in enumerate(_LEEP_HEADS))
        rows = "".join(
            f'<tr><th scope="row">{escape(cells[0])}</th>'
            + "".join(f'<td class="n">{cell}</td>' for cell in cells[1:])
            + "</tr>"
            for cells in _leep_cells(found)
        )
        table = scroll(f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>", LEEP_HEADING)
        text += f'<section><h2>{LEEP_HEADING}</h2><p class="note">{escape(_leep_note(found))}</p>{table}</section>'
    return text


def _pairs_html(one: Mapping[str, Any], pairs: np.ndarray | None) -> str:
    """The closest pairs of a set as pictures."""
    from bridgejax.studies.plots import data_uri

    figures = ""
    for number, row in enumerate(one["copies"]["closest"]):
        pictures = ""
        if pairs is not None and number < len(pairs):
            names = (f"{display_name(row['class'])}, generated", f"{display_name(row['real_class'])}, real")
            pictures = "".join(
                f'<img src="{data_uri(image)}" alt="{escape(name)}" loading="lazy">'
                for image, name in zip(pairs[number], names, strict=True)
            )
        told = f"{escape(display_name(row['class']))}: {row['cosine_distance']:.3f}"
        told += " <b>suspected</b>" if row["suspected"] else ""
        strip = f'<div class="strip" style="--k:2">{pictures}</div>'
        figures += f"<figure>{strip}<figcaption><span>{told}</span></figcaption></figure>"
    heading = "<h3>The pairs nearest to each other: generated left, real right, and their cosine distance</h3>"
    return f'<div style="margin-top:22px">{heading}<div class="panels">{figures}</div></div>'


def synthetic_markdown(found: Mapping[str, Any] | None, cell: Any, table: Any) -> list[str]:
    """Returns the parts of report.md; none without figures.

    Args:
      found: of `read_synthetic_set`.
      cell, table: how report.md writes a cell and a table.
    """
    if not found:
        return []
    parts = []
    if found.get("sets"):
        parts += [f"## {HEADING}", cell(_note(found))]
        for one in found["sets"]:
            parts += [f"### {cell(name)}"] if (name := _set_name(found, one)) else []
            parts.append(table(["figure", "value", "meaning"], [[cell(text) for text in row] for row in _rows(one)]))
            rows = [
                [cell(row["synthetic"]), cell(row["real"]), f"{row['cosine_distance']:.3f}", f"{row['pixel_distance']:.3f}"]
                for row in one["copies"]["closest"]
            ]
            parts += ["The pairs nearest to each other:", table(list(_PAIR_HEADS), rows)]
    if found.get("leep"):
        rows = [[cell(text) for text in row] for row in _leep_cells(found)]
        parts += [f"## {LEEP_HEADING}", cell(_leep_note(found)), table(list(_LEEP_HEADS), rows)]
    return parts
