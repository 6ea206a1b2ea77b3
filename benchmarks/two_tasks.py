"""Ten seeds of the quick start's arms at 1, 2, 4 and 8 shots on two photographic tasks; writes docs/results/two_tasks.md.

    python tools/build_gcompris_task.py --output gcompris_task
    python -m benchmarks two_tasks
    python -m benchmarks two_tasks --seeds 1 --shots 1 --output /tmp/two_tasks.json    # a small part of it

Runs configs/two_tasks.py on `builtin:tux_photos` and on the photographs of GCompris. A stopped run goes on, a finished one is
only read. The figures are kept in docs/results/two_tasks.json, from which the page is made. Nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quickstart import machine
from benchmarks.result_tables import level, points, table

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "results" / "two_tasks.json"
CONFIG = "configs/two_tasks.py"
CONTROL, ALONE = "vanilla_long", "synthetic_only"
METRIC = "test_mean_per_class_accuracy"
TITLES = {"photos": "Tux Paint's photographs (`builtin:tux_photos`)", "gcompris": "GCompris's photographs"}


def run(source: str, workdir: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Runs or continues the config on a task; returns its figures."""
    config = f"{CONFIG}:{source}" if source else CONFIG
    command = [sys.executable, "-m", "bridgejax", "study", "--config", config, "--workdir", str(workdir), *settings]
    subprocess.run(command, cwd=ROOT, check=True)
    from bridgejax.report.summary import summarise
    from bridgejax.studies.run_results import read_results

    return figures(summarise(read_results(workdir), baseline=CONTROL).to_dict())


def figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns of a `summary.json` what the page shows: accuracies and differences to the control by arm and shots."""
    arms: dict[str, dict[str, Any]] = {}
    for entry in summary["order"]:
        found = summary["arms"][entry]
        told = {"mean_per_class": found[METRIC], "top1": found["test_accuracy"], "test_images": found["test_images"]}
        arms.setdefault(found["arm"], {})[str(found["shots"])] = told
    for difference in summary["differences"]:
        arm, against = (summary["arms"][difference[side]] for side in ("arm", "against"))
        if against["arm"] == CONTROL:
            arms[arm["arm"]][str(arm["shots"])]["minus_control"] = difference[METRIC]
    return {"classes": summary["classes"], "seeds": len(summary["seeds"]), "over": summary["bootstrap"]["over"], "arms": arms}


def verdicts(tasks: Mapping[str, Mapping[str, Any]], arm: str) -> dict[str, list[str]]:
    """Returns the shot counts at which an arm is significantly "better" than the control on every task, "partly" so (better on
    one, worse on none), "worse" on one, or else "open"."""
    found: dict[str, list[str]] = {"better": [], "partly": [], "worse": [], "open": []}
    for shots in next(iter(tasks.values()))["arms"][arm]:
        ends = [told["arms"][arm][shots]["minus_control"] for told in tasks.values()]
        better = [end["low"] is not None and end["low"] > 0 for end in ends]
        if any(end["high"] is not None and end["high"] < 0 for end in ends):
            found["worse"].append(shots)
        else:
            found["better" if all(better) else "partly" if any(better) else "open"].append(shots)
    return found


def conclusion(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the first paragraph of the page: where each arm helps, whether any is never worse, and why it stops."""
    on, lost = ("both tasks", " on one of the two tasks") if len(tasks) == 2 else ("the task", "")
    arms = {arm: verdicts(tasks, arm) for arm in next(iter(tasks.values()))["arms"] if arm != CONTROL}
    sentences, good = [], []
    for arm, found in sorted(arms.items(), key=lambda each: (-len(each[1]["better"]), len(each[1]["worse"]))):
        said = {
            "better": f"significantly better than the control on {on}",
            "partly": "significantly better than the control on one of the two tasks",
            "open": "not shown to be better or worse",
            "worse": f"significantly worse{lost}",
        }
        parts = [f"{words} with {_shots(found[kind])}" for kind, words in said.items() if found[kind]]
        sentences.append(f"`{arm}` is {_listed(parts)}.")
        if (found["better"] or found["partly"]) and not found["worse"]:
            fewest = [next(iter(told["arms"][arm].values()))["minus_control"]["mean"] for told in tasks.values()]
            good.append((len(found["better"]), len(found["partly"]), sum(fewest), arm))
    if good:
        better, _, _, best = max(good)
        helps = f"helps{'' if better else ' on one of the two tasks'} where photographs are fewest"
        sentences.append(f"So `{best}` is the recipe to take: it {helps}, and is nowhere significantly worse.")
    else:
        sentences.append("So no recipe here is both significantly better somewhere and nowhere significantly worse.")
    for name, told in tasks.items():
        sentences.append(_why(name, told["arms"]))
    return [" ".join(sentence for sentence in sentences if sentence)]


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]


def _shots(counts: Sequence[str]) -> str:
    return f"{_listed(counts)} photograph{'s' if counts != ['1'] else ''} per class"


def _why(name: str, arms: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns at how many shots the control passes what the synthetic images alone teach."""
    if ALONE not in arms:
        return ""
    mean = {arm: {s: told["mean_per_class"]["mean"] for s, told in arms[arm].items()} for arm in (CONTROL, ALONE)}
    alone = sum(mean[ALONE].values()) / len(mean[ALONE])
    passed = next((shots for shots, value in mean[CONTROL].items() if value > mean[ALONE][shots]), None)
    where = f"the control passes that at {_shots([passed])}" if passed else "the control stays below that throughout"
    return f"On {TITLES[name]}, synthetic images alone teach {100 * alone:.1f} % mean per class; {where}."


def page(record: Mapping[str, Any]) -> str:
    """Returns the page of a record."""
    tasks = record["tasks"]
    count = sum(len(by_shots) for told in tasks.values() for arm, by_shots in told["arms"].items() if arm != CONTROL)
    seeds = " and ".join(dict.fromkeys(str(told["seeds"]) for told in tasks.values()))
    lines = ["# What synthetic images are worth, by photographs per class", "", *conclusion(tasks), ""]
    over = next(iter(tasks.values()))["over"]
    lines.append(
        f"`{record['command']}` ([{CONFIG}](../../{CONFIG})), on {record['machine']}: {seeds} seeds, each with photographs of "
        "its own. The control trains on real images alone, for as many steps. Intervals are 95 %, over "
        f"{over}; differences are paired. Of {count} differences, expect about one in twenty to miss by chance. Recipes, rates "
        "and lengths were chosen on [3D emoji](tuning.md)."
    )
    for name, told in tasks.items():
        arms = told["arms"]
        others = [arm for arm in arms if arm != CONTROL]
        rows = [
            [shots, f"{arms[CONTROL][shots]['test_images']:.0f}", level(arms[CONTROL][shots]["mean_per_class"])]
            + [points(arms[arm][shots]["minus_control"]) for arm in others]
            for shots in arms[CONTROL]
        ]
        heads = ["photographs per class", "test images", f"{CONTROL}, %", *(f"{arm} − control" for arm in others)]
        levels = [
            [arm, *(level(by_shots[shots][metric]) for metric in ("mean_per_class", "top1") for shots in by_shots)]
            for arm, by_shots in arms.items()
        ]
        columns = [f"{metric}, {shots}" for metric in ("mean per class", "top-1") for shots in arms[CONTROL]]
        lines += ["", f"## {TITLES[name]}", "", f"{len(told['classes'])} classes: {', '.join(told['classes'])}.", ""]
        lines += ["Mean per-class accuracy, differences in points:", "", *table(heads, rows)]
        lines += ["", "All accuracies in %, by photographs per class:", "", *table(["arm", *columns], levels)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs both tasks below a folder, continuing them, and writes the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gcompris", type=Path, default=Path("gcompris_task"), help="of tools/build_gcompris_task.py")
    parser.add_argument("--workdirs", type=Path, default=Path("two_tasks"), help="where the studies' workdirs are kept")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TITLES), default=tuple(TITLES), help="only these (default: both)")
    parser.add_argument("--seeds", type=int, help="fewer than the config's ten")
    parser.add_argument("--shots", type=int, nargs="+", help="in place of 1, 2, 4 and 8")
    parser.add_argument("--output", type=Path, default=RECORD, help="the record; the page is written beside it")
    options = parser.parse_args(arguments)
    from bridgejax.files import write_atomic

    sources = {"photos": "", "gcompris": f"folder:{options.gcompris.resolve()}"}
    # As it is typed, but for where things lie.
    command, settings = "python -m benchmarks two_tasks", []
    if options.seeds:
        settings.append(f"--config.study.seeds={options.seeds}")
        command += f" --seeds {options.seeds}"
    if options.shots:
        settings.append(f"--config.study.shots={','.join(map(str, options.shots))},")
        command += f" --shots {' '.join(map(str, options.shots))}"
    tasks = {name: run(sources[name], (options.workdirs / name).resolve(), settings) for name in options.tasks}
    record = {"command": command, "machine": machine(), "tasks": tasks}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.output, json.dumps(record, indent=1) + "\n")
    write_atomic(options.output.with_suffix(".md"), page(record))
    print(page(record))
