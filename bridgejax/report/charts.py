"""The charts of report.html as HTML and inline SVG.

Text is HTML at its own size and only lines are scaled, so a chart reads the same on a desktop and on a phone. Everything
that comes from a user (arm and class names) is escaped here.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from bridgejax.prompts.classes import display_name
from bridgejax.report.phrases import interval, percent, points
from bridgejax.report.statistics import Estimate
from bridgejax.report.summary import Difference, Summary

CONFUSION_CLASSES = 40
SHEET_CLASSES = 40
PANELS = 24
_JPEG_QUALITY = 88


def _focus(summary: Summary, entry: str) -> str:
    return " focus" if summary.arms[entry].arm == summary.focus else ""


def bars(summary: Summary, recipes: Mapping[str, str]) -> str:
    """A bar per arm from 0 to 100 % with its interval; `recipes` says in words what each arm does."""
    rows = []
    for entry in summary.order:
        arm = summary.arms[entry]
        level = arm.test_mean_per_class_accuracy
        words = recipes.get(arm.arm, "")
        if level is None:
            continue
        width = 100 * level.mean
        whisker = ends = ""
        if level.low is not None and level.high is not None:
            start, length = 100 * level.low, 100 * (level.high - level.low)
            ends = interval(level, lambda value: f"{100 * value:.1f}")
            whisker = f'<i class="whisker" style="left:{start:.2f}%;width:{length:.2f}%"></i>'
        # A short bar has no room for its value, and a whisker that begins at the left would cross it out.
        outside = width < 24 or (level.low is not None and level.high is not None and level.low < 0.15 and level.high < 0.85)
        place = f' style="left:calc({max(width, 100 * (level.high or 0)):.2f}% + 10px)"' if outside else ""
        rows.append(
            f'<li class="bar{_focus(summary, entry)}"><span class="name"><b>{escape(entry)}</b>'
            f"{f'<small>{escape(words)}</small>' if words else ''}</span>"
            f'<span class="track"><i class="fill" style="width:{width:.2f}%"></i>{whisker}'
            f'<b class="value{" out" if outside else ""}"{place}>{percent(level.mean)}</b></span>'
            f'<span class="range">{ends}</span></li>'
        )
    ticks = "".join(f'<i style="left:{tick}%">{tick}{" %" if tick == 100 else ""}</i>' for tick in (0, 25, 50, 75, 100))
    axis = (
        f'<li class="axis" aria-hidden="true"><span class="name"></span><span class="ticks">{ticks}</span>'
        '<span class="range"></span></li>'
    )
    return f'<ul class="bars" aria-label="Mean per-class accuracy of every arm">{"".join(rows)}{axis}</ul>'


def difference_table(summary: Summary, differences: Sequence[Difference], against: bool = False) -> str:
    """Paired differences with a line per interval around zero."""
    known = [each.test_mean_per_class_accuracy for each in differences]
    reach = [abs(end or 0) for each in known if each is not None for end in (each.mean, each.low, each.high)]
    limit = max(1, math.ceil(100 * max(reach, default=0.01) / 5 * 1.02)) * 5 / 100
    rows = []
    for each in differences:
        estimate = each.test_mean_per_class_accuracy
        forest = ""
        if estimate is not None:

            def place(value: float) -> float:
                return 50 + 50 * value / limit

            if estimate.low is not None and estimate.high is not None:
                ends = f"left:{place(estimate.low):.2f}%;right:{100 - place(estimate.high):.2f}%"
                forest = f'<i class="span" style="{ends}"></i>'
            forest += f'<i class="dot" style="left:{place(estimate.mean):.2f}%"></i>'
        other = f"<td>{_breakable(each.against)}</td>" if against else ""
        rows.append(
            f'<tr class="{_focus(summary, each.arm).strip()}"><th scope="row">{_breakable(each.arm)}</th>{other}'
            f'<td class="n">{_difference(estimate)}</td>'
            f'<td class="forest" aria-hidden="true"><div class="row"><i class="zero"></i>{forest}</div></td>'
            f'<td class="n">{_difference(each.test_accuracy)}</td>'
            f'<td class="n seeds">{estimate.seeds if estimate else 0}</td></tr>'
        )
    scale = f'<div class="scale" aria-label="scale in points"><i>−{100 * limit:.0f}</i><i>0</i><i>+{100 * limit:.0f}</i></div>'
    return scroll(
        f'<table><thead><tr><th scope="col">arm</th>{"<th scope=col>against</th>" if against else ""}'
        f'<th scope="col" class="n">mean per class,<br>points</th><th scope="col" class="forest">{scale}</th>'
        '<th scope="col" class="n">top-1,<br>points</th><th scope="col" class="n seeds">seeds</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>",
        "Paired differences",
    )


def _difference(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    ends = "" if estimate.low is None else f"<small>{interval(estimate)}</small>"
    return f"<b>{points(estimate.mean)}</b>{ends}"


def scroll(table: str, label: str, kind: str = "") -> str:
    """A box in which a wide table scrolls by itself, also by keyboard."""
    return f'<div class="scroll {kind}" role="region" aria-label="{escape(label)}" tabindex="0">{table}</div>'


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> str:
    """A table of texts that scrolls by itself: names on the left, numbers on the right."""
    head = "".join(f'<th scope="col"{" class=n" if i else ""}>{text}</th>' for i, text in enumerate(heads))
    body = ""
    for name, *cells in rows:
        body += f'<tr><th scope="row">{escape(name)}</th>' + "".join(f'<td class="n">{cell}</td>' for cell in cells) + "</tr>"
    return scroll(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", label)


def curves(summary: Summary, stages: Mapping[str, Sequence[str]]) -> str:
    """One small panel per arm over the same axes: mean ± sd over seeds, the baseline dashed, stage switches marked.

    Args:
      summary: of `summarise`.
      stages: arm → what each stage trains on ("synthetic", "real").
    """
    drawn = [entry for entry in summary.order if summary.arms[entry].curve]
    if not drawn:
        return ""
    points_of = {entry: summary.arms[entry].curve for entry in drawn}
    spread = [p.mean + side * (p.sd or 0) for entry in drawn for p in points_of[entry] for side in (-1, 1)]
    low, high = math.floor(max(0, min(spread)) * 10) / 10, math.ceil(min(1, max(spread)) * 10) / 10
    high = max(high, low + 0.1)
    last = max(p.step for entry in drawn for p in points_of[entry]) or 1
    step = 0.1 if high - low < 0.45 else 0.2 if high - low < 0.75 else 0.25
    ticks = [tick for tick in (low + step * i for i in range(12)) if tick <= high + 1e-9]

    def at(number: float, value: float) -> str:
        return f"{100 * number / last:.2f},{100 * (high - min(1, max(0, value))) / (high - low):.2f}"

    panels = []
    for entry in drawn[:PANELS]:
        arm, curve = summary.arms[entry], points_of[entry]
        control = [e for e in drawn if summary.arms[e].arm == summary.baseline]
        basis = next((points_of[e] for e in control if summary.arms[e].setting == arm.setting), None)
        marks = "".join(f'<path class="grid" d="M0,{100 * (high - t) / (high - low):.2f}H100"/>' for t in ticks)
        labels = "".join(f'<i class="y" style="bottom:{100 * (t - low) / (high - low):.2f}%">{100 * t:.0f}</i>' for t in ticks)
        for number, switch in enumerate(arm.switches, start=1):
            place = 100 * switch / last
            marks += f'<path class="switch" d="M{place:.2f},0V100"/>'
            named = stages.get(arm.arm, ())
            word = named[number] if number < len(named) else f"stage {number + 1}"
            labels += f'<i class="stage{" left" if place > 70 else ""}" style="left:{place:.2f}%">{escape(word)}</i>'
        if all(p.sd is not None for p in curve) and len(curve) > 1:
            upper = [at(p.step, p.mean + (p.sd or 0)) for p in curve]
            lower = [at(p.step, p.mean - (p.sd or 0)) for p in reversed(curve)]
            marks += f'<polygon class="band" points="{" ".join(upper + lower)}"/>'
        if basis and basis is not curve:
            marks += f'<polyline class="basis" points="{" ".join(at(p.step, p.mean) for p in basis)}"/>'
        marks += f'<polyline class="line" points="{" ".join(at(p.step, p.mean) for p in curve)}"/>'
        end = curve[-1]
        text = "; ".join(f"{percent(p.mean)} after {p.step} steps" for p in curve)
        panels.append(
            f'<figure class="panel{_focus(summary, entry)}"><figcaption><b>{escape(entry)}</b>'
            f"<span>{percent(end.mean)}</span></figcaption>"
            f'<div class="plot"><svg role="img" aria-label="{escape(entry)}: {text}" viewBox="0 0 100 100" '
            f'preserveAspectRatio="none">{marks}</svg>'
            f'{labels}<i class="x first" style="left:0">0</i>'
            f'<i class="x last" style="left:100%">{last:,} steps</i></div></figure>'
        )
    return f'<div class="panels">{"".join(panels)}</div>'


def class_table(summary: Summary) -> str:
    """Accuracy per class and arm, shaded; empty if the runs do not say."""
    entries = [entry for entry in summary.order if summary.arms[entry].per_class_accuracy]
    if not entries:
        return ""
    heads = "".join(f'<th scope="col" class="{_focus(summary, e).strip()}">{_breakable(e)}</th>' for e in entries)
    rows = []
    for index, name in enumerate(map(display_name, summary.classes)):
        cells = ""
        for entry in entries:
            values = summary.arms[entry].per_class_accuracy
            value = values[index] if values else None
            cells += "<td>–</td>" if value is None else f'<td style="--v:{100 * value:.0f}">{100 * value:.0f}</td>'
        rows.append(f'<tr><th scope="row">{escape(str(name))}</th>{cells}</tr>')
    levels = [summary.arms[entry].test_mean_per_class_accuracy for entry in entries]
    total = "".join(f"<td>{100 * level.mean:.1f}</td>" if level else "<td>–</td>" for level in levels)
    rows.append(f'<tr class="total"><th scope="row">mean</th>{total}</tr>')
    return scroll(
        f'<table class="heat"><thead><tr><th scope="col">class</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>',
        "Accuracy per class in percent",
        f'classes" style="--arms:{len(entries)}',
    )


def _breakable(name: str) -> str:
    return escape(name).replace("_", "_<wbr>")


def confusions(summary: Summary) -> str:
    """Confusion matrices of the method and the baseline, summed over seeds; empty beyond 40 classes or without counts."""
    names = [display_name(name) for name in summary.classes]
    if not 0 < len(names) <= CONFUSION_CLASSES:
        return ""
    shown = [e for arm in (summary.focus, summary.baseline) for e in summary.order if summary.arms[e].arm == arm]
    parts = []
    for entry in dict.fromkeys(shown):
        table = summary.arms[entry].confusion
        if table is None or len(table) != len(names):
            continue
        heads = "".join(f'<th scope="col"><span title="{escape(name)}">{escape(name)}</span></th>' for name in names)
        rows = []
        for true, row in enumerate(table):
            total = sum(row) or 1
            cells = ""
            for predicted, count in enumerate(row):
                kind = ("same" if true == predicted else "") + ("" if count else " no")
                cells += f'<td class="{kind}" style="--v:{100 * count / total:.0f}">{count}</td>'
            rows.append(f'<tr><th scope="row" title="{escape(names[true])}">{escape(names[true])}</th>{cells}</tr>')
        body = f'<table class="heat"><thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        parts.append(f"<div><h3>{escape(entry)}</h3>{scroll(body, f'Confusion matrix of {entry}', 'confusion')}</div>")
    return f'<div class="pair{" wide" if len(names) > 14 else ""}">{"".join(parts)}</div>' if parts else ""


def contact_sheet(
    examples: Mapping[str, np.ndarray | Sequence[str]] | None,
    kinds: Sequence[tuple[str, str]] = (("real", "real"), ("synthetic", "generated")),
) -> str:
    """Real images beside generated ones, or those of two other kinds, a row per class.

    Args:
      examples: "class_names" [classes] and uint8 [classes, k, h, w, 3] of each kind; one may be missing. A blank image (one
        colour) stands for none. KIND_captions, text [classes, k], is what is shown where a pointer rests on an image.
      kinds: (key, what it is called), left and right.
    """
    if not examples or not any(kind in examples for kind, _ in kinds):
        return ""
    names = [display_name(str(name)) for name in examples["class_names"]]
    kinds = [(kind, label) for kind, label in kinds if kind in examples]
    # Blank ones come last: as many columns as the fullest class has images.
    sheets = {kind: np.asarray(examples[kind]) for kind, _ in kinds}
    counts = {kind: max(1, *(np.ptp(sheet, axis=(2, 3, 4)) > 0).sum(axis=1)) for kind, sheet in sheets.items()}
    cells = ['<div class="head"></div>', *(f'<div class="head">{label}</div>' for _, label in kinds)]
    for index, name in enumerate(names[:SHEET_CLASSES]):
        cells.append(f"<h3>{escape(name)}</h3>")
        for kind, label in kinds:
            images = sheets[kind][index]
            captions = examples[f"{kind}_captions"][index] if f"{kind}_captions" in examples else [""] * len(images)
            tags = "".join(
                picture(image, f"{name}, {label}", str(caption))
                for image, caption in zip(images, captions, strict=False)
                if image.min() != image.max()
            )
            filled = f'<div class="strip" style="--k:{counts[kind]}">{tags}</div>'
            strip = filled if tags else '<div class="strip empty">none</div>'
            cells.append(f'<div><span class="label">{label}</span>{strip}</div>')
    columns = " ".join(f"minmax(0,{count}fr)" for count in counts.values())
    return f'<div class="sheet" style="--columns:{columns}">{"".join(cells)}</div>'


def picture(image: np.ndarray, alt: str, caption: str = "") -> str:
    """A picture, uint8 [h, w, 3], as an element; its caption is shown where a pointer rests on it."""
    title = f' title="{escape(caption)}"' if caption else ""
    return f'<img src="{data_uri(image)}" alt="{escape(alt)}"{title} loading="lazy">'


def data_uri(image: np.ndarray) -> str:
    """A picture, uint8 [h, w, 3], as a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
