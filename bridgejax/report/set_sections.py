"""The report's sections on the synthetic sets, as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from bridgejax.prompts.classes import display_name
from bridgejax.report.charts import picture, plain_table, scroll
from bridgejax.report.phrases import percent
from bridgejax.studies.comparison_results import SetComparison, SetFigures, SetPictures

HEADING, LEEP_HEADING = "The synthetic set", "LEEP"


def _rows(figures: SetFigures) -> list[tuple[str, str, str]]:
    """(what, value, what it means)."""
    frechet, kernel, copies = figures.frechet, figures.kernel, figures.copies
    level = f"{100 * frechet.level:.0f} %"
    rows = [
        (
            "Fréchet distance",
            f"{frechet.estimate:.4g} ({level}: {frechet.low:.4g} to {frechet.high:.4g})",
            "0 for equal sets; too large for few images, which the interval corrects as far as it can",
        ),
        (
            "kernel distance",
            f"{kernel.distance:.4g} ± {kernel.standard_error:.2g}",
            "0 for equal sets, whatever their size; ± one standard error",
        ),
    ]
    less = figures.frechet_less_first
    if less is not None:
        rows.append(
            (
                "Fréchet distance minus the first set's",
                f"{less.estimate:+.4g} ({level}: {less.low:+.4g} to {less.high:+.4g})".replace("-", "−"),
                "below 0: nearer to the real images; the bias of few images cancels",
            )
        )
    if figures.precision is not None:
        rows += [
            ("precision", percent(figures.precision), f"synthetic images among the real ones (k = {figures.k})"),
            ("recall", percent(figures.recall), "real images among the synthetic ones"),
        ]
    if figures.variety is not None:
        real = "" if figures.variety.real is None else f" (real images: {figures.variety.real:.3f})"
        means = "median cosine distance to the nearest other image of the class; near 0, the images of a class are all alike"
        rows.append(("variety", f"{figures.variety.synthetic:.3f}{real}", means))
    share = f"{100 * copies.quantile:.0f} %"
    rows.append(
        (
            "suspected copies",
            f"{copies.suspected:,} by features, {copies.pixel_suspected:,} by pixels, {copies.both_suspected:,} by both",
            f"as near to a real image as only {share} of real images are to each other; look at the pairs below",
        )
    )
    return rows


def _note(comparison: SetComparison) -> str:
    if comparison.against == "train":
        shots = "all" if comparison.shots is None else f"{comparison.shots} per class"
        real = f"the {comparison.real_images:,} training images of the first seed ({shots})"
    else:
        real = f"the {comparison.real_images:,} test images of the first seed, for the report only"
    counts = " and ".join(f"{count:,}" for count in dict.fromkeys(each.synthetic_images for each in comparison.sets))
    width = comparison.sets[0].feature_width
    return (
        f"{counts} synthetic images against {real}, in the {width:,} features of {comparison.classifier}. "
        "Nothing is chosen by these figures."
    )


def _set_name(comparison: SetComparison, figures: SetFigures) -> str:
    """What a set is called where there are several; "" for the only one."""
    return "" if len(comparison.sets) == 1 else f"Set {figures.name!r}" if figures.name else "The config's own set"


def _leep_note(comparison: SetComparison) -> str:
    return (
        f"How well the network's outputs already predict the classes of the {comparison.leep[0].images:,} real training images "
        "of the first seed, in nats, at most 0. Plain LEEP depends on how many outputs there are; the matched score gives "
        "every network as many pseudo-classes as there are classes."
    )


def _leep_cells(comparison: SetComparison) -> list[list[str]]:
    return [
        [
            score.network,
            "–" if score.outputs is None else f"{score.outputs:,}",
            _signed(score.leep),
            _signed(score.leep_matched),
        ]
        for score in comparison.leep
    ]


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


_LEEP_HEADS = ("network", "outputs", "LEEP", "matched LEEP")
_PAIR_HEADS = ("synthetic", "nearest real", "cosine distance", "pixel distance")


def synthetic_html(comparison: SetComparison | None, pictures: Sequence[SetPictures]) -> str:
    """Returns the sections of report.html; empty without figures."""
    if comparison is None:
        return ""
    text = ""
    if comparison.sets:
        body = ""
        for number, figures in enumerate(comparison.sets):
            name = _set_name(comparison, figures)
            rows = "".join(
                f'<tr><th scope="row">{escape(what)}</th><td>{escape(value)}</td><td>{escape(means)}</td></tr>'
                for what, value, means in _rows(figures)
            )
            body += f'<h3 style="margin-top:22px">{escape(name)}</h3>' if name else ""
            body += scroll(f"<table><tbody>{rows}</tbody></table>", name or HEADING, "figures")
            shown = pictures[number] if number < len(pictures) else None
            body += _neighbours_html(figures, shown) + _pairs_html(figures, shown)
        text += f'<section><h2>{HEADING}</h2><p class="note">{escape(_note(comparison))}</p>{body}</section>'
    if comparison.leep:
        table = plain_table(_LEEP_HEADS, _leep_cells(comparison), LEEP_HEADING)
        text += f'<section><h2>{LEEP_HEADING}</h2><p class="note">{escape(_leep_note(comparison))}</p>{table}</section>'
    return text


def _neighbours_html(figures: SetFigures, pictures: SetPictures | None) -> str:
    """A strip per class: a generated image and the generated ones nearest to it."""
    if pictures is None or figures.variety is None or not len(pictures.neighbours):
        return ""
    panels = ""
    for row, images in zip(figures.variety.neighbours, pictures.neighbours, strict=False):
        name, words = escape(display_name(row.name)), f"{display_name(row.name)}, generated"
        shown = zip(images, row.ids, strict=False)
        strip = "".join(picture(image, words, figures.captions.get(identity, identity)) for image, identity in shown)
        panels += (
            f'<figure><div class="strip near" style="--k:{len(images)}">{strip}</div><figcaption><b>{name}</b>'
            f"<span>nearest {min(row.distances):.3f}</span></figcaption></figure>"
        )
    heading = "<h3>Variety: a generated image (left) and the generated images of its class that are nearest to it</h3>"
    return f'<div class="shown">{heading}<div class="panels">{panels}</div></div>'


def _pairs_html(figures: SetFigures, pictures: SetPictures | None) -> str:
    """The closest pairs of a set as pictures."""
    panels = ""
    for number, pair in enumerate(figures.copies.closest):
        strip = ""
        if pictures is not None and number < len(pictures.pairs):
            synthetic, real = pictures.pairs[number]
            caption = figures.captions.get(pair.synthetic, pair.synthetic)
            strip = picture(synthetic, f"{display_name(pair.synthetic_class)}, generated", caption)
            strip += picture(real, f"{display_name(pair.real_class)}, real", pair.real)
        caption = f"{escape(display_name(pair.synthetic_class))}: {pair.cosine_distance:.3f}"
        caption += " <b>suspected</b>" if pair.suspected else ""
        panels += (
            f'<figure><div class="strip" style="--k:2">{strip}</div><figcaption><span>{caption}</span></figcaption></figure>'
        )
    heading = "<h3>The pairs nearest to each other: generated left, real right, and their cosine distance</h3>"
    return f'<div class="shown">{heading}<div class="panels pairs">{panels}</div></div>'


def synthetic_markdown(
    comparison: SetComparison | None, cell: Callable[[str], str], table: Callable[[list[str], list[list[str]]], str]
) -> list[str]:
    """Returns the parts of report.md, none without figures; `cell` and `table` write as report.md does."""
    if comparison is None:
        return []
    parts = []
    if comparison.sets:
        parts += [f"## {HEADING}", cell(_note(comparison))]
        for figures in comparison.sets:
            parts += [f"### {cell(name)}"] if (name := _set_name(comparison, figures)) else []
            parts.append(table(["figure", "value", "meaning"], [[cell(text) for text in row] for row in _rows(figures)]))
            rows = [
                [cell(pair.synthetic), cell(pair.real), f"{pair.cosine_distance:.3f}", f"{pair.pixel_distance:.3f}"]
                for pair in figures.copies.closest
            ]
            parts += ["The pairs nearest to each other:", table(list(_PAIR_HEADS), rows)]
    if comparison.leep:
        rows = [[cell(text) for text in row] for row in _leep_cells(comparison)]
        parts += [f"## {LEEP_HEADING}", cell(_leep_note(comparison)), table(list(_LEEP_HEADS), rows)]
    return parts
