"""Runs the paper's tables and figures on the embedded task and writes docs/results/paper_embedded.md.

    python -m benchmarks paper_embedded                        # every config, one after the other
    python -m benchmarks paper_embedded --only volume few_shot # some; the page holds what is finished below --workdirs

Each is `bridgejax run` of a config of configs/bridged_transfer/ in a folder of its own; finished ones are read, not repeated.
The minimum design has a page and a program of its own (`python -m benchmarks minimum_design`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.result_tables import level, points, table

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "bridged_transfer"
RESULTS = ROOT / "docs" / "results" / "paper_embedded.md"
METRIC, TOP = "test_mean_per_class_accuracy", "test_accuracy"
LOOKS = 6  # columns of the convergence table
# Config → its arguments on the embedded task; each is a study in a workdir of its own.
STUDIES: dict[str, tuple[str, ...]] = {
    "table1_full": ("",),
    "table2_leep": ("",),
    "table3_dsi": ("",),
    "few_shot": ("",),
    "volume": ("",),
    "convergence": ("",),
    "guidance": tuple(f"embedded,{scale:g}" for scale in (1.5, 2, 3, 5, 7.5, 10)),
    "architectures": ("",),
}


def folder(name: str, argument: str) -> str:
    """Returns what the workdir of a study is called."""
    return "-".join([name, *argument.split(",")[1:]])


def run(name: str, argument: str, workdir: Path) -> None:
    """Runs or continues a study; a finished workdir is left alone."""
    if (workdir / "report.html").is_file():
        return
    config = str(CONFIGS / f"{name}.py") + (f":{argument}" if argument else "")
    command = [sys.executable, "-m", "bridgejax", "run", "--config", config, "--workdir", str(workdir)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def compared(summary: Mapping[str, Any], label: str = "") -> list[list[str]]:
    """Returns a row for each arm of a study: setting, arm, both accuracies, and the first one's difference to the baseline."""
    against = {
        d["arm"]: d[METRIC] for d in summary["differences"] if summary["arms"][d["against"]]["arm"] == summary["baseline"]
    }
    rows = []
    for entry in summary["order"]:
        arm = summary["arms"][entry]
        above = points(against[entry]) if entry in against else ""
        rows.append([label or arm["setting"], arm["arm"], level(arm[METRIC]), level(arm[TOP]), above])
    return rows


def curves(summary: Mapping[str, Any]) -> list[str]:
    """Returns the table of accuracies over steps; the steps of a switch are told beside the arm."""
    found = {entry: summary["arms"][entry] for entry in summary["order"]}
    steps = [point["step"] for point in next(iter(found.values()))["curve"]]
    shown = sorted({steps[round(k * (len(steps) - 1) / (LOOKS - 1))] for k in range(LOOKS)})
    rows = []
    for entry, arm in found.items():
        at = {point["step"]: point["mean"] for point in arm["curve"]}
        switch = ", ".join(map(str, arm["switches"])) or "none"
        rows.append([entry, switch, *(f"{100 * at[step]:.1f}" for step in shown)])
    return table(["arm", "switch after step", *(f"step {step}" for step in shown)], rows)


def leeps(workdir: Path) -> list[str]:
    """Returns the table of transferability scores that the study's report holds."""
    rows = [
        [
            row["network"],
            str(row["outputs"]),
            f"{row['leep']:.2f}".replace("-", "−"),
            f"{row['leep_matched']:.2f}".replace("-", "−"),
        ]
        for row in json.loads((workdir / "synthetic_set.json").read_text())["leep"]
    ]
    return table(["network", "outputs", "LEEP, nats", "matched LEEP, nats"], rows)


def section(name: str, workdirs: Path) -> str:
    """Returns a study's part of the page, or nothing before all of it is finished."""
    import runpy

    places = [workdirs / folder(name, argument) for argument in STUDIES[name]]
    if not all((place / "report.html").is_file() for place in places):
        return ""
    title = (runpy.run_path(str(CONFIGS / f"{name}.py"))["__doc__"] or "").partition("\n\n")[0].replace("\n", " ")
    found = [json.loads((place / "summary.json").read_text()) for place in places]
    labels = [argument.partition(",")[2] for argument in STUDIES[name]]
    rows = [row for summary, label in zip(found, labels, strict=True) for row in compared(summary, label)]
    heads = ["setting", "arm", "mean per class, %", "top-1, %", f"points above {found[0]['baseline']}"]
    if not any(row[0] for row in rows):
        rows, heads = [row[1:] for row in rows], heads[1:]
    tables = [table(heads, rows, left=len(heads) - 3)]
    if name == "convergence":
        tables.append(curves(found[0]))
    if name == "table2_leep":
        tables.append(leeps(places[0]))
    seeds = " and ".join(sorted({str(len(summary["seeds"])) for summary in found}))
    heading = f"## `{name}.py`\n\n{title} Here: {seeds} seeds, {found[0]['runs'] * len(found)} runs.\n\n"
    return heading + "\n\n".join("\n".join(lines) for lines in tables) + "\n"


def page(workdirs: Path) -> str:
    """Returns the page from what is finished below `workdirs`."""
    text = (
        "# The paper's tables and figures on the embedded task\n\n`python -m benchmarks paper_embedded`: each config of "
        "configs/bridged_transfer/ on the embedded photographs (11 classes, 4 real images of each unless the table says "
        "otherwise), with the embedded generator and EfficientNet-Lite0. 32 synthetic images per class stand for the paper's "
        "1,000, other volumes in proportion. Every arm has the same rate: nothing was tuned on this page, so it compares "
        "settings; [minimum_design.md](minimum_design.md) compares the arms at rates chosen for each. Intervals are 95 %, over "
        "seeds and test images, differences are paired; of the many here, one in twenty misses by chance.\n"
    )
    return "\n".join([text, told_apart(workdirs), *filter(None, (section(name, workdirs) for name in STUDIES))])


def told_apart(workdirs: Path) -> str:
    """Returns a sentence on which differences from the baseline can be told at all."""
    count, named = 0, []
    for name, arguments in STUDIES.items():
        for argument in arguments:
            file = workdirs / folder(name, argument) / "summary.json"
            summary = json.loads(file.read_text()) if file.is_file() else {"differences": [], "arms": {}}
            for one in summary["differences"]:
                if summary["arms"][one["against"]]["arm"] != summary["baseline"]:
                    continue
                count += 1
                if one[METRIC]["low"] > 0 or one[METRIC]["high"] < 0:
                    setting = argument.partition(",")[2]
                    shown = one["arm"] + (f" (guidance {setting})" if setting else "")
                    named.append(f"{shown} of `{name}.py`, {points(one[METRIC])}")
    told = "; ".join(named) or "none"
    return f"Of {count} differences from the baseline below, the intervals of {len(named)} leave out zero: {told}.\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the studies below a folder, continuing finished ones, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--workdirs", type=Path, default=Path("paper_embedded"), help="where the studies' workdirs are kept")
    options = parser.parse_args(arguments)
    from bridgejax.files import write_atomic

    workdirs = options.workdirs.resolve()
    for name in options.only:
        for argument in STUDIES[name]:
            run(name, argument, workdirs / folder(name, argument))
    text = page(workdirs)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS, text)
    print(text)
