"""report.md: the finding and the tables of the page, without its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from bridgejax.prompts.classes import display_name
from bridgejax.studies.gains import gain_note, gain_rows
from bridgejax.studies.page import facts, title
from bridgejax.studies.reproduce import config_file
from bridgejax.studies.statistics import ACCURACY, MEAN_PER_CLASS
from bridgejax.studies.synthetic_words import synthetic_markdown
from bridgejax.studies.words import duration, finding, interval, points, stall, timed


def markdown(summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Returns report.md.

    Args:
      summary: of `summarise`, with the workdir's `seconds` of each step.
      config: the config of the workdir; may be empty.
    """
    arms, order = summary["arms"], summary["order"]
    names = timed(summary)
    shaded = [entry for entry in order if arms[entry]["per_class_accuracy"]]
    several = len(summary["seeds"]) > 1
    brackets = f"; in brackets 95 % intervals over {summary['bootstrap']['over']}." if several else "; one seed: no intervals."
    parts = [f"# {_cell(title(summary, config))}", _cell(" · ".join(facts(summary))), _cell(finding(summary))]
    parts += [
        "## Accuracy",
        f"Percent, averaged over seeds{brackets}",
        _table(
            ["arm", "mean per class", "top-1"],
            [[_cell(e), _level(arms[e][MEAN_PER_CLASS]), _level(arms[e][ACCURACY])] for e in order],
        ),
    ]
    if summary["differences"]:
        parts += [
            "## Paired differences",
            "Percentage points, on the same seeds and the same test images.",
            _table(
                ["arm", "minus", "mean per class", "top-1", "seeds"],
                [
                    [
                        _cell(d["arm"]),
                        _cell(d["against"]),
                        _difference(d[MEAN_PER_CLASS]),
                        _difference(d[ACCURACY]),
                        str((d[MEAN_PER_CLASS] or {"seeds": 0})["seeds"]),
                    ]
                    for d in summary["differences"]
                ],
            ),
        ]
    if shaded:
        rows = [
            [_cell(display_name(name)), *(_whole(arms[e]["per_class_accuracy"][index]) for e in shaded)]
            for index, name in enumerate(summary["classes"])
        ]
        parts += ["## Accuracy per class", "Percent, averaged over seeds.", _table(["class", *map(_cell, shaded)], rows)]
    gaining, gains = gain_rows(summary)
    if gains:
        rows = [
            [_cell(name), f"{images:,}", *(f"{words} ({ends})" if ends else words for words, ends, _ in cells)]
            for name, images, cells in gains
        ]
        heads = ["class", "test images", *map(_cell, gaining)]
        parts += ["## Gain per class", _cell(gain_note(summary)), _table(heads, rows)]
    parts += synthetic_markdown(summary.get("synthetic_set"), _cell, _table)
    rows = [
        [
            _cell(e),
            _steps(arms[e]["train_steps"]),
            *(duration(arms[e]["seconds"].get(n)) for n in names),
            stall(arms[e]["seconds"]),
        ]
        for e in order
    ]
    heads = ["arm", "optimiser steps", *(f"{_cell(name)} per run" for name in names), "of training: input stall"]
    parts += ["## Cost", _table(heads, rows)]
    if summary.get("seconds"):
        parts.append(
            "In all: " + ", ".join(f"{_cell(name)} {duration(value)}" for name, value in summary["seconds"].items()) + "."
        )
    if config:
        file = config_file(config)
        fence = "`" * max(3, 1 + max((len(run) for run in _backticks(file)), default=0))
        parts += ["## Run it again", "Save as `study.py`:", f"{fence}python\n{file.rstrip()}\n{fence}"]
        parts.append("```sh\nbridgejax run --config study.py --workdir study\n```")
    return "\n\n".join(parts) + "\n"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))


def _level(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    ends = "" if found["low"] is None else f" ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
    return f"{100 * found['mean']:.1f}{ends}"


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    return points(found["mean"]) + ("" if found["low"] is None else f" ({interval(found)})")


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}"


def _steps(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _backticks(text: str) -> list[str]:
    return "".join(sign if sign == "`" else " " for sign in text).split()


def _cell(text: Any) -> str:
    """User text made safe for Markdown and its tables."""
    escaped = escape(" ".join(str(text).split()), quote=False)
    return "".join(f"\\{sign}" if sign in "\\|*_`[]" else sign for sign in escaped)
