"""report.html: one page that needs nothing but itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from bridgejax import __version__
from bridgejax.studies import plots
from bridgejax.studies.gains import gain_note, gain_table
from bridgejax.studies.reproduce import config_file
from bridgejax.studies.statistics import MEAN_PER_CLASS
from bridgejax.studies.style import CSS
from bridgejax.studies.synthetic_words import synthetic_html
from bridgejax.studies.words import baseline_differences, counted, duration, finding, recipe_words, stall, timed


def title(summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The task's name as a title."""
    source = str(config.get("task", {}).get("source") or summary.get("task") or "results")
    kind, _, name = source.partition(":")
    return (name.rstrip("/").rsplit("/", 1)[-1] if kind == "folder" else name) or source


def facts(summary: Mapping[str, Any]) -> list[str]:
    """What was run, in short phrases."""
    arms = [summary["arms"][entry] for entry in summary["order"]]
    shots = list(dict.fromkeys(arm["shots"] for arm in arms))
    volumes = list(dict.fromkeys(arm["per_class"] for arm in arms if arm["per_class"]))
    tested = [arm["test_images"] for arm in arms if arm["test_images"]]
    found = [counted(len(summary["classes"]), "class")] if summary["classes"] else []
    if shots == [None]:
        found.append("all real training images")
    else:
        found.append(f"{_either(shots)} real {'image' if shots == [1] else 'images'} per class")
    if volumes:
        found.append(f"{_either(volumes)} generated per class")
    if tested:
        low, high = round(min(tested)), round(max(tested))
        found.append(f"{low:,} test images" if low == high else f"{low:,} to {high:,} test images")
    found.append(f"{counted(len({arm['arm'] for arm in arms}), 'arm')} × {counted(len(summary['seeds']), 'seed')}")
    if summary.get("papers_report"):
        found.append(f"papers report {summary['papers_report']}")
    return found


def _either(values: list[Any]) -> str:
    words = ["all" if value is None else f"{value:,}" for value in values]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def render(summary: Mapping[str, Any], config: Mapping[str, Any], examples: Mapping[str, Any] | None, pairs: Any = None) -> str:
    """Returns the page.

    Args:
      summary: of `summarise`, with the workdir's `seconds` of each step and its `synthetic_set`, if it has one.
      config: the config of the workdir; may be empty.
      examples: of the workdir's `examples.npz`, or None.
      pairs: of the workdir's `synthetic_pairs.npz`, one array for each set.
    """
    recipes = config.get("recipes") or {}
    words = {arm: recipe_words(stages) for arm, stages in recipes.items()}
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
        synthetic_html(summary.get("synthetic_set"), pairs),
        _classes(summary),
        _section("Gain per class", escape(gain_note(summary)), gain_table(summary)),
        _confusion(summary),
        _cost(summary),
        _reproduce(summary, config),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(name)} – bridgejax report</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f'<header><p class="kicker">bridgejax report</p><h1>{escape(name)}</h1>'
        f'<p class="facts">{escape(" · ".join(facts(summary)))}</p>'
        f'<p class="finding">{escape(finding(summary))}</p></header>\n'
        + "\n".join(section for section in sections if section)
        + f"\n<footer>Made by bridgejax {escape(__version__)} from results.jsonl; "
        "every figure is there or in summary.json.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def _section(heading: str, note: str, body: str) -> str:
    return f'<section><h2>{heading}</h2><p class="note">{note}</p>{body}</section>' if body else ""


def _accuracy(summary: Mapping[str, Any], words: Mapping[str, str]) -> str:
    note = "Mean over the classes of the share of test images named rightly, averaged over seeds."
    if len(summary["seeds"]) > 1:
        note += f" Lines and the figures at the end of a row: 95&#8239;% intervals over {summary['bootstrap']['over']}."
    else:
        note += " One seed: no intervals."
    return _section("Accuracy on real test images", note, plots.bars(summary, words))


def _differences(summary: Mapping[str, Any]) -> str:
    main = baseline_differences(summary)
    if not main:
        return ""
    rest = [d for d in summary["differences"] if d not in main]
    note = f"Each arm minus {escape(summary['baseline'])}, in percentage points, on the same seeds and the same test images."
    if len(summary["seeds"]) > 1:
        note += " An interval that holds zero means that no difference can be told."
        draws = f"{summary['bootstrap']['replicates']:,}"
        note += f" Intervals: {draws} bootstrap draws of {summary['bootstrap']['over']}."
    body = plots.difference_table(summary, main)
    if rest:
        table = plots.difference_table(summary, rest, against=True)
        body += f"<details><summary>All other pairs ({len(rest)})</summary>{table}</details>"
    return _section("Paired differences", note, body)


def _convergence(summary: Mapping[str, Any], stages: Mapping[str, list[str]]) -> str:
    curves = [p for entry in summary["order"] for p in summary["arms"][entry]["curve"]]
    if not curves:
        return '<section><h2>Convergence</h2><p class="note">The runs hold no test accuracies along the way.</p></section>'
    if all(len(summary["arms"][entry]["curve"]) < 2 for entry in summary["order"]):
        told = "Each run was tested once, at its end; training.evaluations of 2 or more gives curves."
        return f'<section><h2>Convergence</h2><p class="note">{told}</p></section>'
    metric = "Mean per-class" if curves[0]["metric"] == MEAN_PER_CLASS else "Top-1"
    note = f"{metric} test accuracy in percent while training"
    note += "; shaded: one standard deviation over seeds" if len(summary["seeds"]) > 1 else ""
    note += f'. <span class="key" role="img" aria-label="dashed line"></span>{escape(summary["baseline"])}.'
    if any(summary["arms"][entry]["switches"] for entry in summary["order"]):
        note += " An upright line marks where the next stage begins."
    hidden = sum(bool(summary["arms"][entry]["curve"]) for entry in summary["order"]) - plots.PANELS
    note += f" The first {plots.PANELS} are shown, {hidden} more are in summary.json." if hidden > 0 else ""
    return _section("Convergence", note, plots.curves(summary, stages))


def _examples(summary: Mapping[str, Any], examples: Mapping[str, Any] | None) -> str:
    if not examples:
        return ""
    both = "synthetic" in examples
    note = "Real training images of the first seed" + (" beside generated ones, the first of each class." if both else ".")
    more = len(examples["class_names"]) - plots.SHEET_CLASSES
    note += f" The first {plots.SHEET_CLASSES} classes; {more} more are not shown." if more > 0 else ""
    return _section("Real and generated images" if both else "Real images", note, plots.contact_sheet(examples))


def _classes(summary: Mapping[str, Any]) -> str:
    return _section("Accuracy per class", "In percent, averaged over seeds.", plots.class_table(summary))


def _confusion(summary: Mapping[str, Any]) -> str:
    count = len(summary["classes"])
    if count > plots.CONFUSION_CLASSES:
        note = f"Not drawn for {count} classes (at most {plots.CONFUSION_CLASSES}); the counts are in summary.json."
        return f'<section><h2>Confusion</h2><p class="note">{note}</p></section>'
    note = "Rows: true class; columns: answer. Counts of test images, summed over seeds; shaded by their share of the row."
    return _section("Confusion", note, plots.confusions(summary))


def _cost(summary: Mapping[str, Any]) -> str:
    names = timed(summary)
    heads = "".join(f'<th scope="col" class="n">{escape(name)},<br>per run</th>' for name in names)
    rows = []
    for entry in summary["order"]:
        arm = summary["arms"][entry]
        steps = "–" if arm["train_steps"] is None else f"{arm['train_steps']:,.0f}"
        values = [*(duration(arm["seconds"].get(name)) for name in names), stall(arm["seconds"])]
        cells = "".join(f'<td class="n">{value}</td>' for value in values)
        rows.append(f'<tr><th scope="row">{escape(entry)}</th><td class="n">{steps}</td>{cells}</tr>')
    body = plots.scroll(
        f'<table><thead><tr><th scope="col">arm</th><th scope="col" class="n">optimiser<br>steps</th>{heads}'
        f'<th scope="col" class="n">of training:<br>input stall</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>",
        "Cost of every arm",
    )
    note = (
        "Wall-clock time, averaged over seeds; the first run of a shape also compiles. The input stall is the share of "
        "training in which the loop waited for images."
    )
    spent = summary.get("seconds") or {}
    if spent:
        note += " In all: " + ", ".join(f"{escape(name)} {duration(value)}" for name, value in spent.items()) + "."
    return _section("Cost", note, body)


def _reproduce(summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if not config:
        return ""
    command = "bridgejax run --config study.py --workdir study"
    whole = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False)
    body = (
        f'<pre tabindex="0">{escape(config_file(config))}</pre><pre tabindex="0">{escape(command)}</pre>'
        f'<details><summary>The whole configuration</summary><pre tabindex="0">{escape(whole)}</pre></details>'
    )
    note = f"Save this as study.py and run the command, with bridgejax {escape(__version__)}."
    return _section("Run it again", note, body)
