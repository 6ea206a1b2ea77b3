"""report.html: one page that needs nothing but itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from bridgejax import __version__
from bridgejax.errors import either
from bridgejax.report import charts
from bridgejax.report.charts import scroll
from bridgejax.report.choosing import SHOTS_HEADS, advice
from bridgejax.report.config_text import ConfigJson, config_file
from bridgejax.report.filter_section import filters_html
from bridgejax.report.gain_table import gain_note, gain_table
from bridgejax.report.phrases import (
    baseline_differences,
    counted,
    duration,
    findings,
    recipe_words,
    sets_of_other_classes,
    stall,
    timed,
)
from bridgejax.report.price_chart import price_chart
from bridgejax.report.set_sections import synthetic_html
from bridgejax.report.summary import Summary
from bridgejax.studies.comparison_results import SetPictures
from bridgejax.studies.filter_results import SelectionPictures
from bridgejax.studies.run_results import MEAN_PER_CLASS

_CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")  # light and dark; no font or image from elsewhere


def title(summary: Summary, config: ConfigJson) -> str:
    """The task's name as a title."""
    source = str(config.get("task", {}).get("source") or summary.task or "results")
    kind, _, name = source.partition(":")
    return (name.rstrip("/").rsplit("/", 1)[-1] if kind == "folder" else name) or source


def facts(summary: Summary) -> list[str]:
    """What was run, in short phrases."""
    arms = [summary.arms[entry] for entry in summary.order]
    shots = list(dict.fromkeys(arm.shots for arm in arms))
    volumes = list(dict.fromkeys(arm.per_class for arm in arms if arm.per_class))
    tested = [arm.test_images for arm in arms if arm.test_images]
    phrases = [counted(len(summary.classes), "class")] if summary.classes else []
    if shots == [None]:
        phrases.append("all real training images")
    else:
        phrases.append(f"{_either(shots)} real {'image' if shots == [1] else 'images'} per class")
    if volumes:
        phrases.append(f"{_either(volumes)} generated per class")
    if tested:
        low, high = round(min(tested)), round(max(tested))
        phrases.append(f"{low:,} test images" if low == high else f"{low:,} to {high:,} test images")
    phrases.append(f"{counted(len({arm.arm for arm in arms}), 'arm')} × {counted(len(summary.seeds), 'seed')}")
    if summary.papers_report:
        phrases.append(f"papers report {summary.papers_report}")
    return phrases


def _either(values: Sequence[int | None]) -> str:
    return either(["all" if value is None else f"{value:,}" for value in values])


def render(
    summary: Summary,
    config: ConfigJson,
    examples: Mapping[str, np.ndarray] | None,
    shown: Sequence[SetPictures] = (),
    pictures: Sequence[SelectionPictures] = (),
) -> str:
    """Returns the page.

    Args:
      summary: of `summarise`, with the workdir's `seconds` of each step and its `synthetic_set`, if it has one.
      config: the config of the workdir; may be empty.
      examples: of the workdir's `examples.npz`, or None.
      shown: of the workdir's `synthetic_pairs.npz`, one for each set.
      pictures: of the workdir's `filter_images.npz`, one for each of the summary's `filters`.
    """
    recipes = config.get("recipes") or {}
    others = sets_of_other_classes(config)
    words = {arm: recipe_words(stages, others) for arm, stages in recipes.items()}
    stages = {
        arm: [str(stage.get("data", "")) for stage in stages]
        for arm, stages in recipes.items()
        if isinstance(stages, list) and all(isinstance(stage, Mapping) for stage in stages)
    }
    name = title(summary, config)
    sections = [
        _accuracy(summary, words),
        _differences(summary),
        _convergence(summary, stages),
        _examples(summary, examples),
        filters_html(summary.filters, pictures),
        synthetic_html(summary.synthetic_set, shown),
        _section("Accuracy per class", "In percent, averaged over seeds.", charts.class_table(summary)),
        _section("Gain per class", escape(gain_note(summary)), gain_table(summary)),
        _confusion(summary),
        _cost(summary),
        _advice(summary),
        _reproduce(summary, config),
    ]
    return document(
        f"{name} – bridgejax report",
        f'<header><p class="kicker">bridgejax report</p><h1>{escape(name)}</h1>'
        f'<p class="facts">{escape(" · ".join(facts(summary)))}</p>'
        f"{_found(summary)}</header>\n"
        + "\n".join(section for section in sections if section)
        + f"\n<footer>Made by bridgejax {escape(__version__)} from results.jsonl; "
        "every figure is in that file or in summary.json.</footer>\n",
    )


def _found(summary: Summary) -> str:
    first, *others = findings(summary)
    return f'<p class="finding">{escape(first)}</p>' + "".join(f'<p class="found">{escape(text)}</p>' for text in others)


def document(title: str, body: str) -> str:
    """Returns a whole page of a title and what it shows."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_CSS}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def _section(heading: str, note: str, body: str) -> str:
    return f'<section><h2>{heading}</h2><p class="note">{note}</p>{body}</section>' if body else ""


def _accuracy(summary: Summary, words: Mapping[str, str]) -> str:
    note = "Mean over classes of the share of test images classified correctly, averaged over seeds."
    if len(summary.seeds) > 1:
        note += f" Lines and the figures at the end of a row: 95&#8239;% intervals over {summary.bootstrap.over}."
    else:
        note += " One seed: no intervals."
    return _section("Accuracy on real test images", note, charts.bars(summary, words))


def _differences(summary: Summary) -> str:
    main = baseline_differences(summary)
    if not main:
        return ""
    rest = [each for each in summary.differences if each not in main]
    note = f"Each arm minus {escape(summary.baseline)}, in percentage points, on the same seeds and the same test images."
    if len(summary.seeds) > 1:
        note += " A difference whose interval includes zero is not significant."
        draws = f"{summary.bootstrap.replicates:,}"
        note += f" Intervals: {draws} bootstrap draws of {summary.bootstrap.over}."
    body = charts.difference_table(summary, main)
    if rest:
        table = charts.difference_table(summary, rest, against=True)
        body += f"<details><summary>All other pairs ({len(rest)})</summary>{table}</details>"
    return _section("Paired differences", note, body)


def _convergence(summary: Summary, stages: Mapping[str, list[str]]) -> str:
    curves = [summary.arms[entry].curve for entry in summary.order]
    if all(len(curve) < 2 for curve in curves):
        return ""
    metric = "Mean per-class" if next(filter(None, curves))[0].metric == MEAN_PER_CLASS else "Top-1"
    note = f"{metric} test accuracy in percent while training"
    note += "; shaded: one standard deviation over seeds" if len(summary.seeds) > 1 else ""
    note += f'. <span class="key" role="img" aria-label="dashed line"></span>{escape(summary.baseline)}.'
    if any(summary.arms[entry].switches for entry in summary.order):
        note += " A vertical line marks where the next stage begins."
    hidden = sum(bool(summary.arms[entry].curve) for entry in summary.order) - charts.PANELS
    note += f" The first {charts.PANELS} are shown, {hidden} more are in summary.json." if hidden > 0 else ""
    return _section("Convergence", note, charts.curves(summary, stages))


def _examples(summary: Summary, examples: Mapping[str, np.ndarray] | None) -> str:
    if not examples:
        return ""
    both = "synthetic" in examples
    note = "Real training images of the first seed" + (" beside generated ones, the first of each class." if both else ".")
    more = len(examples["class_names"]) - charts.SHEET_CLASSES
    note += f" The first {charts.SHEET_CLASSES} classes; {more} more are not shown." if more > 0 else ""
    return _section("Real and generated images" if both else "Real images", note, charts.contact_sheet(examples))


def _confusion(summary: Summary) -> str:
    count = len(summary.classes)
    if count > charts.CONFUSION_CLASSES:
        note = f"Not drawn for {count} classes (at most {charts.CONFUSION_CLASSES}); the counts are in summary.json."
        return f'<section><h2>Confusion</h2><p class="note">{note}</p></section>'
    note = "Rows: true class; columns: answer. Counts of test images, summed over seeds; shaded by their share of the row."
    return _section("Confusion", note, charts.confusions(summary))


def _cost(summary: Summary) -> str:
    names = timed(summary)
    heads = "".join(f'<th scope="col" class="n">{escape(name)},<br>per run</th>' for name in names)
    rows = []
    for entry in summary.order:
        arm = summary.arms[entry]
        steps = "–" if arm.train_steps is None else f"{arm.train_steps:,.0f}"
        values = [*(duration(arm.seconds.get(name)) for name in names), stall(arm.seconds)]
        cells = "".join(f'<td class="n">{value}</td>' for value in values)
        name = escape(entry).replace("_", "_<wbr>")
        rows.append(f'<tr><th scope="row">{name}</th><td class="n">{steps}</td>{cells}</tr>')
    body = scroll(
        f'<table><thead><tr><th scope="col">arm</th><th scope="col" class="n">optimiser<br>steps</th>{heads}'
        f'<th scope="col" class="n">of training:<br>input stall</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>",
        "Cost of every arm",
        "cost",
    )
    note = (
        "Wall-clock time, averaged over seeds; the first run of a shape also compiles. The input stall is the share of "
        "training in which the loop waited for images."
    )
    if chart := price_chart(summary):
        said = "Accuracy against price: one run, and making its images for it alone; a set that several runs share costs less"
        body = f'<h3 class="above">{said}</h3>{chart}{body}'
    if summary.seconds:
        listed = ", ".join(f"{escape(name)} {duration(value)}" for name, value in summary.seconds.items())
        note += f" Total: {listed}."
    return _section("Cost", note, body)


def _advice(summary: Summary) -> str:
    """The rows of docs/choosing.md for the study's numbers of shots."""
    rows = ""
    for row in advice(dict.fromkeys(arm.shots for arm in summary.arms.values())):
        first, *cells = (re.sub("`(.+?)`", r"<code>\1</code>", escape(cell)) for cell in row.cells)
        rows += f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in SHOTS_HEADS)
    table = scroll(f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>", "Choosing", "advice") if rows else ""
    return _section("What others found at these shots", "Which recipe helped whom, from docs/choosing.md.", table)


def _reproduce(summary: Summary, config: ConfigJson) -> str:
    if not config:
        return ""
    command = "bridgejax run --config study.py --workdir study"
    text = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False)
    body = (
        f'<pre tabindex="0">{escape(config_file(config))}</pre><pre tabindex="0">{escape(command)}</pre>'
        f'<details><summary>The whole configuration</summary><pre tabindex="0">{escape(text)}</pre></details>'
    )
    note = f"Save this as study.py and run the command, with bridgejax {escape(__version__)}."
    return _section("Run it again", note, body)
