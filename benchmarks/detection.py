"""Detectors on random, published and synthetically pre-trained backbones, AP50 over seeds; writes docs/results/detection.md.

    python tools/build_boxed_set.py --output boxed_set
    bridgejax train --config configs/he2023/table8_pretraining.py --recipe synthetic_only --workdir pretrained \\
        --config.training.batch_size=32 --config.training.base_steps=60 --config.classifier.image_size=128
    python -m benchmarks detection --backbone synthetic=pretrained/runs/RUN/classifier
    python -m benchmarks detection --seeds 1 --steps 20 --output /tmp/detection.json    # a small part of it

Every arm trains with each of the rates by a seed of its own and keeps the one that is best on the validation part; only then it
is scored on the test part, by other seeds. A stopped run goes on, a finished one is only read. The figures are kept in
docs/results/detection.json, from which the page is made.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.quickstart import machine
from benchmarks.result_tables import level, points, table
from bridgejax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "results" / "detection.json"
RATES = (0.001, 0.002, 0.004, 0.008)
TUNING_SEED = 1000
CONTROL, WEIGHTS = "random", "weights"
_LEVEL = 0.95


def backbones(named: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns the options of each arm: the two that are always there, and NAME=FOLDER for others.

    Raises:
      UserError: one has another form, or a name is there twice.
    """
    arms: dict[str, dict[str, Any]] = {CONTROL: {"random": True}, WEIGHTS: {}}
    for text in named:
        name, equals, weights = text.partition("=")
        if not (name and equals and weights) or name in arms:
            raise UserError(f"--backbone {text} is no new NAME=FOLDER; give each further backbone a name of its own.")
        arms[name] = {"weights": weights}
    return arms


def estimate(values: Sequence[float]) -> dict[str, float | None]:
    """Returns the mean over seeds with Student's 95 % interval, whose ends are None for one seed."""
    from scipy.special import stdtrit

    count, mean = len(values), sum(values) / len(values)
    if count == 1:
        return {"mean": mean, "low": None, "high": None}
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
    half = float(stdtrit(count - 1, (1 + _LEVEL) / 2)) * spread
    return {"mean": mean, "low": mean - half, "high": mean + half}


def figures(runs: Mapping[str, Sequence[Mapping[str, Any]]], tuning: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Returns what the page shows of each arm.

    Args:
      runs: arm → results of `bridgejax.training.detection_run.detect`, one a seed, the same seeds in each arm.
      tuning: arm → AP50 on the validation part by learning rate.
    """
    found: dict[str, Any] = {}
    for arm, results in runs.items():
        values, *others = ([result["ap50"] for result in runs[name]] for name in (arm, CONTROL, WEIGHTS))
        gains = [estimate([a - b for a, b in zip(values, other, strict=True)]) for other in others]
        classes = results[0]["average_precision"]
        found[arm] = {
            "ap50": estimate(values),
            "minus_random": None if arm == CONTROL else gains[0],
            "minus_weights": None if arm in (CONTROL, WEIGHTS) else gains[1],
            "by_class": {name: sum(result["average_precision"][name] for result in results) / len(results) for name in classes},
            "rate": results[0]["settings"]["learning_rate"],
            "validation": dict(tuning[arm]),
        }
    return found


def run(boxed: Path, workdirs: Path, arms: Mapping[str, Mapping[str, Any]], asked: argparse.Namespace) -> dict[str, Any]:
    """Trains what is not trained yet with what the command asks for; returns the record without the command."""
    from bridgejax import runtime
    from bridgejax.training.detection_run import DetectionOptions, detect

    runtime.start(alone=True)
    runs: dict[str, list[Mapping[str, Any]]] = {arm: [] for arm in arms}
    tuning: dict[str, dict[str, float]] = {}
    options = {arm: DetectionOptions(**{"steps": asked.steps, "side": asked.side, **changes}) for arm, changes in arms.items()}

    def result(arm: str, part: str, **changes: Any) -> Mapping[str, Any]:
        name = "-".join([arm, part, *(f"{key}={value}" for key, value in changes.items())])
        made = detect(boxed, workdirs / name, replace(options[arm], **changes), part)
        print(f"{name}: {100 * made['ap50']:.1f}", file=sys.stderr, flush=True)
        return made

    for arm in arms:
        tried = {rate: result(arm, "validation", learning_rate=rate, seed=TUNING_SEED) for rate in asked.rates}
        tuning[arm] = {str(rate): made["ap50"] for rate, made in tried.items()}
        options[arm] = replace(options[arm], learning_rate=float(max(tuning[arm], key=tuning[arm].__getitem__)))
    for seed in range(asked.seeds):
        for arm in arms:
            runs[arm].append(result(arm, "test", seed=seed))
    first = runs[CONTROL][0]
    common = {key: value for key, value in asdict(options[CONTROL]).items() if key in ("steps", "batch_size", "side")}
    return {
        "machine": machine(),
        "seeds": asked.seeds,
        "images": first["images"],
        "boxes": first["boxes"],
        **common,
        "arms": figures(runs, tuning),
    }


def _verdict(gain: Mapping[str, float | None]) -> str:
    low, high = gain["low"], gain["high"]
    if low is None or high is None:
        return ""
    return ", significantly better" if low > 0 else ", significantly worse" if high < 0 else ", not shown to be better or worse"


def page(record: Mapping[str, Any]) -> str:
    """Returns the page of a record."""
    arms = record["arms"]
    gains = [(arm, other, told[f"minus_{other}"]) for arm, told in arms.items() for other in (CONTROL, WEIGHTS)]
    verdicts = [f"`{arm}` − `{other}`: {points(gain)} points{_verdict(gain)}." for arm, other, gain in gains if gain]
    rows = [
        [
            arm,
            level(told["ap50"]),
            *("" if told[f"minus_{other}"] is None else points(told[f"minus_{other}"]) for other in (CONTROL, WEIGHTS)),
            f"{told['rate']:g}",
            ", ".join(f"{float(rate):g}: {100 * value:.1f}" for rate, value in told["validation"].items()),
        ]
        for arm, told in arms.items()
    ]
    classes = list(next(iter(arms.values()))["by_class"])
    by_class = [[name, *(f"{100 * told['by_class'][name]:.1f}" for told in arms.values())] for name in classes]
    lines = [
        "# Detection on synthetic pre-training",
        "",
        " ".join(verdicts),
        "",
        f"`{record['command']}`, on {record['machine']}: {record['seeds']} seeds of {record['steps']} updates of "
        f"{record['batch_size']} images, {record['side']} pixels wide. Tested on {record['images']} images with "
        f"{record['boxes']} boxes of `tools/build_boxed_set.py`: cut-outs of photographs that training did not see, on random "
        "backgrounds, which is easier than photographs of scenes. `random` starts the backbone from random values, `weights` "
        "from `builtin:efficientnet_lite0`; a further arm starts from a classifier that was trained on synthetic images alone. "
        "All layers train. The rate was chosen on the validation part by a seed of its own. Intervals are Student's at 95 % "
        "over seeds, which share the test images; differences are paired by seed.",
        "",
        *table(["backbone", "AP50, %", f"− {CONTROL}", f"− {WEIGHTS}", "rate", "validation AP50, % by rate"], rows),
        "",
        "Average precision by class, means over seeds in %:",
        "",
        *table(["class", *arms], by_class),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and scores every arm, continuing what was stopped, and writes the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, default=Path("boxed_set"), help="of tools/build_boxed_set.py")
    parser.add_argument("--backbone", action="append", default=[], metavar="NAME=FOLDER", help="a further arm; may be repeated")
    parser.add_argument("--workdirs", type=Path, default=Path("detection"), help="where each run's workdir is kept")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--side", type=int, default=128, help="of the images as the network sees them")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="that the validation part chooses from")
    parser.add_argument("--output", type=Path, default=RECORD, help="the record; the page is written beside it")
    options = parser.parse_args(arguments)
    from bridgejax.files import write_atomic

    arms = backbones(options.backbone)
    # As it is typed, but for where things lie.
    command = "python -m benchmarks detection" + "".join(f" --backbone {name}=FOLDER" for name in list(arms)[2:])
    for key in ("seeds", "steps", "side", "rates"):
        if (value := getattr(options, key)) != parser.get_default(key):
            command += f" --{key} {' '.join(f'{each:g}' for each in (value if key == 'rates' else [value]))}"
    record = {"command": command, **run(options.set, options.workdirs, arms, options)}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.output, json.dumps(record, indent=1) + "\n")
    write_atomic(options.output.with_suffix(".md"), page(record))
    print(page(record))
