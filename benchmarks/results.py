"""The figures of comparisons: JSON that later runs add to, and the Markdown that is made from it.

`docs/results/NAME.json` holds runs, each with its command, its machine and its rows. A row that is measured again takes the
place of the older one, and a run without rows left goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paired import Spread
from benchmarks.processors import DISTURBED
from benchmarks.result_tables import table
from bridgejax.errors import UserError

DIRECTORY = Path(__file__).resolve().parent.parent / "docs" / "results"
TITLES = {
    "train_step": "A train step",
    "inference": "A forward pass",
    "generation": "Generating images",
    "language": "Sentences of a language model",
}
Run = Mapping[str, Any]


def keep(name: str, run: Run, directory: Path) -> None:
    """Puts a run's rows into `directory`/NAME.json and writes NAME.md from it."""
    measured = {row["key"] for row in run["rows"]}
    runs = []
    for older in read(name, directory):
        rows = [row for row in older["rows"] if row["key"] not in measured]
        if rows:
            runs.append({**older, "rows": rows})
    runs.append(dict(run))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps({"benchmark": name, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    text = "\n".join([f"# {TITLES[name]}\n", *map(section, runs)])
    (directory / f"{name}.md").write_text(text, encoding="utf-8")


def read(name: str, directory: Path) -> list[dict[str, Any]]:
    """Returns the runs kept in `directory`, oldest first; none if it was never run.

    Raises:
      UserError: the file is damaged.
    """
    file = directory / f"{name}.json"
    if not file.is_file():
        return []
    try:
        return json.loads(file.read_text(encoding="utf-8"))["runs"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not what a benchmark wrote ({error}); remove it and measure again.") from error


def section(run: Run) -> str:
    """Returns a run in Markdown: its command, its machine, a row for each side, and what went otherwise than asked."""
    short = " A short version: few repeats, small sizes." if run["quick"] else ""
    lines = [f"`{run['command']}`, on {machine(run['machine'])}.{short}", "", *_times(run), ""]
    if any(_disturbed(side) for row in run["rows"] for side in row["sides"]):
        lines += [
            f"**Disturbed** means that other programs took more than {DISTURBED:.0%} of the machine while a side worked (the "
            "last column): its figures and ratios say nothing, measure them again on an idle machine.\n"
        ]
    counted = sorted({row["flops_by"] for row in run["rows"] if row["flops"] and row["flops_by"]})
    lines += [f"Operations are {way}.\n" for way in counted]
    lines += [f"- {row['what']}: {note}" for row in run["rows"] for note in row["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def ratios(run: Run) -> list[list[str]]:
    """Returns a table row for each peer of each row: what, batch, peer, ours ÷ peer, whether it was disturbed."""
    return [
        [row["what"], str(row["batch"]), side["name"], Spread(**side["ratio"]).shown(), _disturbed(row["sides"][0], side)]
        for row in run["rows"]
        for side in row["sides"]
        if "ratio" in side
    ]


def machine(facts: Mapping[str, Any]) -> str:
    """Returns a machine in words."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    rates = " and ".join(
        f"{rate['flops'] / 1e9:.0f} GFLOP/s ({name}{_mark(_disturbed(rate))})" for name, rate in facts["matrix_rates"].items()
    )
    parts = [
        f"{facts['cores']} CPU cores ({facts['cpu']})",
        f"{facts['memory_bytes'] / 2**30:.0f} GiB of memory",
        facts["system"],
        f"Python {facts['python']}",
        versions,
        f"commit {facts['commit'] or 'unknown'}",
        f"XLA_FLAGS {facts['xla_flags'] or 'unset'}",
        f"float32 matrix products at {rates}",
    ]
    return ", ".join(parts)


def _times(run: Run) -> list[str]:
    undisturbed = [rate["flops"] for rate in run["machine"]["matrix_rates"].values() if not _disturbed(rate)]
    best = max(undisturbed, default=None)
    heads = ["what", "batch", "side", "seconds a call", "ours ÷ peer", "GFLOP", "share of the matrix rate", "first call, s"]
    heads += ["later calls of the first process, s", "peak GiB", "other programs"]
    return table(heads, [_side(row, side, best) for row in run["rows"] for side in row["sides"]], left=3)


def _side(row: Mapping[str, Any], side: Mapping[str, Any], best: float | None) -> Sequence[str]:
    flops, seconds = row["flops"], Spread(**side["seconds"])
    return [
        row["what"],
        str(row["batch"]),
        side["name"],
        seconds.shown(),
        Spread(**side["ratio"]).shown() if "ratio" in side else "",
        f"{flops / 1e9:.3g}" if flops else "",
        f"{flops / seconds.median / best:.0%}" if flops and best else "",
        f"{side['first_seconds']:.3g}",
        f"{side['first_process_seconds']:.3g}" if "first_process_seconds" in side else "",
        f"{side['peak_bytes'] / 2**30:.2f}",
        "unknown" if side["others"] is None else f"{side['others']:.0%}{_mark(_disturbed(side))}",
    ]


def _disturbed(*sides: Mapping[str, Any]) -> str:
    """Returns "disturbed" if other programs took too much of the machine while one of the sides worked, else nothing."""
    return "disturbed" if any((side["others"] or 0.0) > DISTURBED for side in sides) else ""


def _mark(word: str) -> str:
    return f", {word}" if word else ""
