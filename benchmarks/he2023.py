"""Runs configs of He et al. 2023 on the embedded task and writes docs/results/he2023_embedded.md.

    python -m benchmarks he2023                                  # every study, one after the other
    python -m benchmarks he2023 --only few_shot_tuned            # some; the page keeps what it has of the others
    python -m benchmarks he2023 --only combined --set study.seeds=2 --set training.base_steps=40

Each is `bridgejax run` of a config of configs/he2023/ in a folder below --workdirs; few_shot_tuned after `bridgejax tune` has
chosen each arm's rate by validation images. Rates that a config has from the emoji come from `python -m benchmarks tuning`. A
stopped run goes on, a finished one is only read. The figures are kept in docs/results/he2023_embedded.json, from which the page
is made.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import runpy
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.result_tables import level, points, table

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "results" / "he2023_embedded.json"
METRIC, TOP = "test_mean_per_class_accuracy", "test_accuracy"


@dataclasses.dataclass(frozen=True)
class Study:
    """A config and its part of the page.

    Attributes:
      title: the heading.
      text: what the reader should know of the arms.
      options: keys that differ from the config, KEY=VALUE.
      tuned: whether `bridgejax tune` chooses each arm's rate first.
      emoji: the part of `python -m benchmarks tuning` that the config's `RATES` come from; "" if it has none.
    """

    title: str
    text: str
    options: tuple[str, ...] = ("study.seeds=10",)
    tuned: bool = False
    emoji: str = ""


STUDIES = {
    "table2_losses": Study(
        "Table 2: prompts, filter and losses",
        'Without photographs. 200 images of each class, from "a photo of a …" (B), or from the built-in sentences (LE), of '
        "which the CLIP filter then keeps 80 (LE+CF) or, in `le_cf_tenth_sce`, 20.",
        emoji="table2",
    ),
    "few_shot": Study(
        "Figure 1: few-shot, at the paper's rates",
        "32 images of each class, by the class name or, guided, from the photographs.",
        options=("study.seeds=10", "study.shots=1,4"),
    ),
    "few_shot_tuned": Study(
        "Figure 1: few-shot, every arm at a rate of its own",
        "32 images of each class. Real filtering (`tuned_mix_filtered`) keeps the 16 that are most like the photographs of "
        "their class; the phases take half of the steps each. A class has one photograph more, for validation alone.",
        options=(),
        tuned=True,
    ),
    "combined": Study(
        "The two families",
        "One CLIP model, one generator, 4 photographs of each class, and as many steps for every arm that trains: classifier "
        "tuning (`tuned_…`) trains the head, bridged transfer and its control `vanilla_long` all of the network, "
        "`bridged_tuned` first all of it, at a sixteenth of its rate, and then the head. `bridged_plus_plus` goes on with a "
        "random head after the synthetic images, `bridged_plus_plus_text` with that of the class names. An arm takes twice "
        "`training.base_steps`.",
        emoji="combined",
    ),
}


def run(name: str, workdirs: Path, options: Sequence[str]) -> dict[str, Any]:
    """Runs or continues a study; returns its figures."""
    study, overrides = STUDIES[name], [f"--config.{option}" for option in options]
    config = ["--config", f"configs/he2023/{name}.py"]
    if study.tuned:
        _bridgejax("tune", *config, "--workdir", str(workdirs / name / "tune"), *overrides)
        overrides.append(f"--config.training.tuned={workdirs / name / 'tune' / 'tuning.json'}")
    workdir = workdirs / name / "run"
    _bridgejax("run", *config, "--workdir", str(workdir), *overrides)
    tuning = json.loads((workdirs / name / "tune" / "tuning.json").read_text()) if study.tuned else {}
    validation = json.loads((workdir / "config.json").read_text())["task"]["validation_per_class"]
    found = figures(json.loads((workdir / "summary.json").read_text()), tuning, validation, options)
    if study.emoji:
        found |= {"rates": runpy.run_path(str(ROOT / config[1]))["RATES"], "tuning_part": study.emoji}
    return found


def _bridgejax(command: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "bridgejax", command, *arguments], cwd=ROOT, check=True)


def figures(summary: Mapping[str, Any], tuning: Mapping[str, Any], validation: int, options: Sequence[str]) -> dict[str, Any]:
    """Returns what the page shows of a study.

    Args:
      summary: its `summary.json`.
      tuning: its `tuning.json`; empty if nothing was tuned.
      validation: photographs of a class that are for validation, which its shots count.
      options: keys that differ from the config.
    """
    against = {d["arm"]: d for d in summary["differences"] if summary["arms"][d["against"]]["arm"] == summary["baseline"]}
    several = len({arm["shots"] for arm in summary["arms"].values()}) > 1
    rows = []
    for entry in summary["order"]:
        arm = summary["arms"][entry]
        row = {"arm": arm["arm"], "shots": arm["shots"] - validation if several else None}
        row |= {"mean_per_class": _ends(arm[METRIC]), "top1": _ends(arm[TOP])}
        if entry in against:
            row |= {
                f"{key}_above": _ends(against[entry][metric]) for key, metric in (("mean_per_class", METRIC), ("top1", TOP))
            }
        rows.append(row)
    told: dict[str, Any] = {"options": list(options), "seeds": len(summary["seeds"]), "baseline": summary["baseline"]}
    counts = [arm["test_images"] for arm in summary["arms"].values()]
    told |= {"over": summary["bootstrap"]["over"], "test_images": [min(counts), max(counts)], "rows": rows}
    spreads = [pair[METRIC]["sd"] for pair in against.values() if pair[METRIC]["sd"] is not None]
    if spreads:
        told["sd_over_seeds"] = [min(spreads), max(spreads)]
    if tuning:
        learning = {row["arm"] for row in tuning["candidates"] if row["train_steps"] > 1}  # the others have nothing to choose
        told["rates"] = {arm: each["learning_rate"] for arm, each in tuning["chosen"].items() if arm in learning}
        told["budget"] = {key: tuning["budget"][key] for key in ("learning_rates", "seeds", "validation_per_class")}
    return told


def _ends(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("mean", "low", "high")}


def clear(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the arms of a study whose difference from the baseline, mean per class, leaves out zero, and the difference."""
    found = []
    for row in told["rows"]:
        above = row.get("mean_per_class_above")
        if above is not None and above["low"] is not None and (above["low"] > 0 or above["high"] < 0):
            found.append((_entry(row), points(above)))
    return found


def _entry(row: Mapping[str, Any]) -> str:
    shots = row["shots"]
    return f"`{row['arm']}`" + ("" if shots is None else f" ({shots:g} shot{'' if shots == 1 else 's'})")


def _listed(found: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{entry} {value}" for entry, value in found) or "none"


def page(record: Mapping[str, Any]) -> str:
    """Returns the page of a record, with the studies that it holds."""
    known = {name: record[name] for name in STUDIES if name in record}
    lines = [
        "# He et al. on the embedded task",
        "",
        "`python -m benchmarks he2023`: the photographs of `tux_photos` test, `builtin:tiny_clip` is the CLIP model, and the "
        "embedded generator makes the images. Accuracies in %, differences from the baseline in points, with 95 % intervals; "
        "differences are paired. Of so many intervals about one in twenty misses by chance.",
        "",
        "Arms whose mean per class differs from the baseline's by an interval that leaves out zero; all other differences may "
        "be chance:",
        "",
        *(f"- {STUDIES[name].title}, from `{told['baseline']}`: {_listed(clear(told))}." for name, told in known.items()),
    ]
    if missing := [f"`{name}.py`" for name in STUDIES if name not in record]:
        lines += ["", f"Not run: {', '.join(missing)}."]
    for name, told in known.items():
        lines += ["", *_section(name, told)]
    return "\n".join(lines) + "\n"


def _section(name: str, told: Mapping[str, Any]) -> list[str]:
    study, (least, most) = STUDIES[name], told["test_images"]
    options = "".join(f" --config.{option}" for option in told["options"])
    images = f"{least:.0f}" if least == most else f"{least:.0f} to {most:.0f}"
    lines = [f"## {study.title}", "", "```bash"]
    if study.tuned:
        lines.append(f"bridgejax tune --config configs/he2023/{name}.py --workdir T{options}")
        options += " --config.training.tuned=T/tuning.json"
    lines += [f"bridgejax run --config configs/he2023/{name}.py --workdir W{options}", "```", ""]
    lines.append(f"{study.text} {told['seeds']} seeds, {images} test images; intervals are over {told['over']}.")
    if "sd_over_seeds" in told:
        low, high = (f"{100 * sd:.1f}" for sd in told["sd_over_seeds"])
        lines[-1] += (
            f" From seed to seed alone, the differences in mean per class have standard deviations of {low} to {high} points."
        )
    if "tuning_part" in told:
        lines[-1] += f" Each arm's rate is its best one on drawn emoji: part `{told['tuning_part']}` of [tuning.md](tuning.md)."
    elif "rates" in told:
        rates, budget = ", ".join(f"{rate:g}" for rate in told["budget"]["learning_rates"]), told["budget"]
        lines[-1] += (
            f" Each arm's rate is the best of {rates} on the validation photographs, {budget['validation_per_class']} of each "
            f"class in each of {budget['seeds']} seeds."
        )
        edge = sum(rate == min(budget["learning_rates"]) for rate in told["rates"].values())
        if edge:
            lines[-1] += f" The lowest was the best for {edge} of {len(told['rates'])} arms; lower ones were not tried."
    several = any(row["shots"] is not None for row in told["rows"])
    heads = [*(["shots"] if several else []), "arm", *(["rate"] if "rates" in told else []), "mean per class", "top-1"]
    heads += [f"mean per class − {told['baseline']}", f"top-1 − {told['baseline']}"]
    rows = []
    for row in told["rows"]:
        cells = [f"{row['shots']:g}"] if several else []
        cells.append(row["arm"].replace("_", r"\_"))
        cells += [f"{rate:g}" if (rate := told["rates"].get(row["arm"])) else "–"] if "rates" in told else []
        cells += [level(row["mean_per_class"]), level(row["top1"])]
        cells += [points(row[key]) if key in row else "" for key in ("mean_per_class_above", "top1_above")]
        rows.append(cells)
    return [*lines, "", *table(heads, rows, left=1 + several)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs studies below a folder, continuing them, and writes the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(STUDIES), default=list(STUDIES), help="none: the page alone")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="keys of the config, in place of the study's own")
    parser.add_argument("--workdirs", type=Path, default=Path("he2023"), help="where the studies' workdirs are kept")
    parser.add_argument("--output", type=Path, default=RECORD, help="the record; the page is written beside it")
    options = parser.parse_args(arguments)
    from bridgejax.files import write_atomic

    record = json.loads(options.output.read_text()) if options.output.is_file() else {}
    for name in options.only:
        record[name] = run(name, options.workdirs.resolve(), STUDIES[name].options if options.set is None else options.set)
        write_atomic(options.output, json.dumps(record, indent=1) + "\n")
    write_atomic(options.output.with_suffix(".md"), page(record))
    print(page(record))
