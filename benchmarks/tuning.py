"""Chooses rates, crop and batch statistics on the emoji task and writes docs/results/tuning.md.

    python tools/build_emoji_task.py --output emoji_task
    python -m benchmarks tuning

Runs configs/tuning.py three times (batch statistics and rate for the step-matched control with the classifier's own crop, the
same without a crop, then each arm's rate) and configs/generator.py for rate and length on generated images alone. Chosen is the
highest mean per-class accuracy on the emoji, over shots and seeds. No photograph takes part. What is chosen stands in
configs/quickstart.py and configs/generator.py, by hand.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "tuning.md"
METRIC = "test_mean_per_class_accuracy"
STUDIES = {  # title → config and what is set on the command line
    "Batch statistics and rate, the classifier's own crop": ("configs/tuning.py:inputs", ["--config.classifier.crop=None"]),
    "Batch statistics and rate, no crop": ("configs/tuning.py:inputs", ["--config.classifier.crop=1.0"]),
    "Rates by arm": ("configs/tuning.py", []),
    "Generated images alone, 128 per class: rate and steps": ("configs/generator.py:tuning", []),
}


def run(config: str, settings: Sequence[str], workdir: Path) -> list[tuple[str, float, float]]:
    """Runs or continues a study; returns (candidate, mean per-class accuracy in [0, 1], best of its recipe: 1 or 0)."""
    command = [sys.executable, "-m", "bridgejax", "run", "--config", config, "--workdir", str(workdir), *settings]
    subprocess.run(command, cwd=ROOT, check=True)
    found: dict[str, list[float]] = {}
    for line in (workdir / "results.jsonl").read_text().splitlines():
        result = json.loads(line)
        found.setdefault(result["arm"], []).append(result[METRIC])
    means = {arm: sum(values) / len(values) for arm, values in found.items()}
    best: dict[str, str] = {}
    for arm in means:
        recipe = arm.partition("-")[0]
        if recipe not in best or means[arm] > means[best[recipe]]:
            best[recipe] = arm
    return [(arm, mean, float(best[arm.partition("-")[0]] == arm)) for arm, mean in means.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the studies below a folder, continuing finished ones, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdirs", type=Path, default=Path("tuning"), help="where the studies' workdirs are kept")
    parser.add_argument("--task", type=Path, default=Path("emoji_task"), help="the folder of tools/build_emoji_task.py")
    options = parser.parse_args(arguments)
    from bridgejax.files import write_atomic

    text = (
        "# Settings chosen on 3D emoji\n\n`python -m benchmarks tuning`: mean per-class accuracy on the emoji in %, over shots "
    )
    text += "and seeds; the best of each recipe in bold.\n"
    for number, (title, (config, settings)) in enumerate(STUDIES.items()):
        task = f"--config.task.source=folder:{options.task.resolve()}"
        rows = run(config, [task, *settings], (options.workdirs / f"study-{number}").resolve())
        text += f"\n## {title}\n\n`{' '.join([config, *settings])}`\n\n| candidate | mean per class, % |\n| --- | ---: |\n"
        text += "".join(f"| {arm} | {f'**{100 * m:.1f}**' if top else f'{100 * m:.1f}'} |\n" for arm, m, top in rows)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS, text)
    print(text)
