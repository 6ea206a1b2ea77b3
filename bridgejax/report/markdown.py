"""report.md: the finding and the tables of the page, without its pictures."""

from __future__ import annotations

import re
from html import escape

from bridgejax.prompts.classes import display_name
from bridgejax.report.config_text import ConfigJson, config_file
from bridgejax.report.filter_section import filters_markdown
from bridgejax.report.gain_table import gain_note, gain_rows
from bridgejax.report.page import facts, title
from bridgejax.report.phrases import duration, finding, interval, points, stall, timed
from bridgejax.report.set_sections import synthetic_markdown
from bridgejax.report.statistics import Estimate
from bridgejax.report.summary import Summary


def markdown(summary: Summary, config: ConfigJson) -> str:
    """Returns report.md.

    Args:
      summary: of `summarise`, with the workdir's `seconds` of each step.
      config: the config of the workdir; may be empty.
    """
    arms, order = summary.arms, summary.order
    names = timed(summary)
    shaded = {entry: rates for entry in order if (rates := arms[entry].per_class_accuracy)}
    several = len(summary.seeds) > 1
    brackets = f"; in brackets 95 % intervals over {summary.bootstrap.over}." if several else "; one seed: no intervals."
    parts = [f"# {_cell(title(summary, config))}", _cell(" · ".join(facts(summary))), _cell(finding(summary))]
    parts += [
        "## Accuracy",
        f"Percent, averaged over seeds{brackets}",
        _table(
            ["arm", "mean per class", "top-1"],
            [[_cell(e), _level(arms[e].test_mean_per_class_accuracy), _level(arms[e].test_accuracy)] for e in order],
        ),
    ]
    if summary.differences:
        parts += [
            "## Paired differences",
            "Percentage points, on the same seeds and the same test images.",
            _table(
                ["arm", "minus", "mean per class", "top-1", "seeds"],
                [
                    [
                        _cell(each.arm),
                        _cell(each.against),
                        _difference(each.test_mean_per_class_accuracy),
                        _difference(each.test_accuracy),
                        str(each.test_mean_per_class_accuracy.seeds if each.test_mean_per_class_accuracy else 0),
                    ]
                    for each in summary.differences
                ],
            ),
        ]
    if shaded:
        rows = [
            [_cell(display_name(name)), *(_whole(rates[index]) for rates in shaded.values())]
            for index, name in enumerate(summary.classes)
        ]
        parts += ["## Accuracy per class", "Percent, averaged over seeds.", _table(["class", *map(_cell, shaded)], rows)]
    if gains := gain_rows(summary):
        rows = [
            [
                _cell(row.name),
                f"{row.images:,}",
                *(f"{cell.gain} ({cell.interval})" if cell.interval else cell.gain for cell in row.cells),
            ]
            for row in gains
        ]
        heads = ["class", "test images", *(_cell(gain.arm) for gain in summary.class_gains)]
        parts += ["## Gain per class", _cell(gain_note(summary)), _table(heads, rows)]
    parts += filters_markdown(summary.filters, _cell, _table)
    parts += synthetic_markdown(summary.synthetic_set, _cell, _table)
    rows = [
        [_cell(e), _steps(arms[e].train_steps), *(duration(arms[e].seconds.get(n)) for n in names), stall(arms[e].seconds)]
        for e in order
    ]
    heads = ["arm", "optimiser steps", *(f"{_cell(name)} per run" for name in names), "of training: input stall"]
    parts += ["## Cost", _table(heads, rows)]
    if summary.seconds:
        parts.append(f"Total: {', '.join(f'{_cell(name)} {duration(value)}' for name, value in summary.seconds.items())}.")
    if config:
        file = config_file(config)
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", file)), default=0))
        parts += ["## Run it again", "Save as `study.py`:", f"{fence}python\n{file.rstrip()}\n{fence}"]
        parts.append("```sh\nbridgejax run --config study.py --workdir study\n```")
    return "\n\n".join(parts) + "\n"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))


def _level(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    ends = "" if estimate.low is None else f" ({interval(estimate, lambda value: f'{100 * value:.1f}')})"
    return f"{100 * estimate.mean:.1f}{ends}"


def _difference(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return points(estimate.mean) + ("" if estimate.low is None else f" ({interval(estimate)})")


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}"


def _steps(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _cell(text: str) -> str:
    """User text made safe for Markdown and its tables."""
    escaped = escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{sign}" if sign in "\\|*_`[]" else sign for sign in escaped)
