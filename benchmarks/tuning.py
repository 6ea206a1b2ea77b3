"""Chooses what trains, rates, lengths, image size, images and their number on the emoji task; writes docs/results/tuning.md.

    python tools/build_emoji_task.py --output emoji_task
    python -m benchmarks tuning
    python -m benchmarks tuning --parts rates images    # some of it; the page keeps the others

Runs configs/tuning.py and, for generated images alone, configs/generator.py. Chosen is the highest mean per-class accuracy on
the emoji, over shots and seeds; all arms take as many steps, on images of one size. What trains is not chosen by that alone:
it decides the time. No photograph takes part. What is chosen stands in configs/quickstart.py, generator.py and he2023/, by
hand. A stopped part goes on, a finished one is only read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.result_tables import table

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "results" / "tuning.json"
METRIC = "test_mean_per_class_accuracy"


@dataclass(frozen=True)
class Part:
    """A study of the tuning: its title, its config, and what is set on the command line."""

    title: str
    config: str
    settings: tuple[str, ...] = ()


PARTS = {
    "size_96": Part("Rate, images of 96 px", "configs/tuning.py:inputs", ("--config.classifier.image_size=96",)),
    "size_160": Part("Rate, images of 160 px", "configs/tuning.py:inputs", ("--config.classifier.image_size=160",)),
    "size_224": Part("Rate, images of 224 px", "configs/tuning.py:inputs", ("--config.classifier.image_size=224",)),
    "rates": Part("Rate and steps by arm", "configs/tuning.py"),
    "layers": Part("What trains, and its rate", "configs/tuning.py:layers"),
    "images": Part("A template, the half of its images that the embedded CLIP keeps, or sentences", "configs/tuning.py:images"),
    **{
        f"count_{count}": Part(
            f"{count} images per class",
            "configs/quickstart.py",
            ("--config.training.evaluations=0", f"--config.synthetic.per_class={count}"),
        )
        for count in (32, 64, 128)
    },
    "shares": Part(
        "Share of synthetic images in a batch",
        "configs/quickstart.py",
        ("--config.training.evaluations=0", "--config.arms=vanilla_long,mixed_10,mixed_25,mixed_50,mixed_90"),
    ),
    "table2": Part("Rates of configs/he2023/table2_losses.py", "configs/tuning.py:table2"),
    "combined": Part("Rates of configs/he2023/combined.py", "configs/tuning.py:combined"),
    "generator": Part("Generated images alone, 128 per class: rate and steps", "configs/generator.py:tuning"),
}


def run(part: Part, task: Path, workdir: Path) -> list[dict[str, Any]]:
    """Runs or continues a study; returns its candidates, as `candidates` does."""
    settings = [f"--config.task.source=folder:{task}", *part.settings]
    command = [sys.executable, "-m", "bridgejax", "study", "--config", part.config, "--workdir", str(workdir), *settings]
    subprocess.run(command, cwd=ROOT, check=True)
    return candidates([json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()])


def candidates(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns what the lines of a results.jsonl say of each candidate, in their order.

    An entry holds the candidate's name, its recipe, the mean per-class accuracies (in [0, 1]) of its runs by shots, their means
    by shots and over these, and whether it is the best of its recipe.
    """
    runs: dict[str, dict[str, list[float]]] = {}
    for result in results:
        runs.setdefault(result["arm"], {}).setdefault(str(result["shots"]), []).append(result[METRIC])
    found = []
    for arm, by_shots in runs.items():
        means = {shots: _mean(values) for shots, values in by_shots.items()}
        entry = {"candidate": arm, "recipe": arm.partition("-")[0], "runs": by_shots}
        found.append({**entry, "by_shots": means, "mean": _mean([*means.values()]), "best": False})
    for recipe in dict.fromkeys(entry["recipe"] for entry in found):
        max((e for e in found if e["recipe"] == recipe), key=lambda e: e["mean"])["best"] = True
    return found


def taken(rates: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, str]]:
    """Returns what the part "rates" decides: the steps, and each recipe's rate.

    All arms take as many steps, so that the control is matched: of the lengths that with the best mean over recipes, each at
    its best rate of that length.
    """
    found: dict[str, dict[str, tuple[float, str]]] = {}
    for entry in rates:
        rate, _, steps = entry["candidate"].removeprefix(f"{entry['recipe']}-").rpartition("-")
        best = found.setdefault(steps, {})
        best[entry["recipe"]] = max(best.get(entry["recipe"], (-1.0, "")), (entry["mean"], rate))
    steps = max(found, key=lambda count: _mean([mean for mean, _ in found[count].values()]))
    return steps, {recipe: rate for recipe, (_, rate) in found[steps].items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def page(record: Mapping[str, Any]) -> str:
    """Returns the page of a record."""
    lines = [
        "# Settings chosen on 3D emoji",
        "",
        "Made by `python -m benchmarks tuning` from [tuning.json](tuning.json): mean per-class accuracy on the emoji in %, "
        "over seeds; the best of each recipe over all shots in bold. A candidate's steps are those of all its stages.",
    ]
    for part in record.values():
        shots = list(part["candidates"][0]["by_shots"])
        rows = []
        for entry in part["candidates"]:
            mean = f"{100 * entry['mean']:.1f}"
            every = [f"{100 * entry['by_shots'][count]:.1f}" for count in shots]
            rows.append([entry["candidate"], *(every if len(shots) > 1 else []), f"**{mean}**" if entry["best"] else mean])
        heads = [f"{count} shot{'s' if count != '1' else ''}" for count in shots] if len(shots) > 1 else []
        command = " ".join([part["config"], *part["settings"]])
        seeds = len(part["candidates"][0]["runs"][shots[0]])
        lines += ["", f"## {part['title']}", "", f"`{command}`, {seeds} seed{'s' if seeds > 1 else ''}", ""]
        lines += table(["candidate", *heads, "mean"], rows)
        if part["config"] == PARTS["rates"].config:
            steps, rates = taken(part["candidates"])
            each = ", ".join(f"`{recipe}` {rate}" for recipe, rate in rates.items())
            lines += ["", f"Every arm takes as many steps: best on average over the arms are {steps}, at the rates {each}."]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the parts asked for below a folder, and writes the record and the page after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="only these (default: all)")
    parser.add_argument("--workdirs", type=Path, default=Path("tuning"), help="where the studies' workdirs are kept")
    parser.add_argument("--task", type=Path, default=Path("emoji_task"), help="the folder of tools/build_emoji_task.py")
    parser.add_argument("--output", type=Path, default=RECORD, help="the record; the page is written beside it")
    options = parser.parse_args(arguments)
    from bridgejax.files import write_atomic

    known = json.loads(options.output.read_text(encoding="utf-8")) if options.output.is_file() else {}
    for name in options.parts:
        found = run(PARTS[name], options.task.resolve(), (options.workdirs / name).resolve())
        known[name] = {**asdict(PARTS[name]), "candidates": found}
        record = {part: known[part] for part in PARTS if part in known}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(options.output, json.dumps(record, indent=1) + "\n")
        write_atomic(options.output.with_suffix(".md"), page(record))
    print(page(known))
