"""How a word is best learned on the embedded task: wording, rate and start, judged on the shots themselves.

    python -m benchmarks inversion [--workdir DIR] [--only NAME …]

Each candidate is one `bridgejax invert --config configs/inversion.py …` in a folder of its own below the workdir; finished ones
are read, not repeated. Prints a Markdown table: the loss over all shots under the same 256 draws of timesteps and noise before,
half-way and after, seconds per 1,000 steps and the greatest memory of the process. No validation or test image is looked at.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAPER = "A {class} photo in the style of {token}"
AFTER = "a photo of a {class} {token}"
CANDIDATES: dict[str, dict[str, object]] = {
    "slot_0.003": {"learning_rate": 0.003},
    "slot_0.01": {},
    "slot_0.03": {"learning_rate": 0.03},
    "after_0.01": {"prompt": AFTER},
    "after_0.03": {"prompt": AFTER, "learning_rate": 0.03},
    "paper_0.01": {"prompt": PAPER},
    "paper_0.03": {"prompt": PAPER, "learning_rate": 0.03},
    "slot_0.01_random": {"initial": "random"},
    "slot_0.01_mean_feature": {"initial": "mean_feature"},
    "slot_0.01_long": {"steps": 1000, "evaluations": 10},
}


def learn(name: str, workdir: Path) -> dict[str, object]:
    """Learns a candidate, if it is not there yet, and returns its record."""
    changes = [f"--config.inversion.{key}={value}" for key, value in {"evaluations": 2, **CANDIDATES[name]}.items()]
    command = [sys.executable, "-m", "bridgejax", "invert", "--config", str(ROOT / "configs" / "inversion.py"), *changes]
    subprocess.run([*command, "--workdir", str(workdir / name)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return json.loads((workdir / name / "inversion" / "shots-4_seed-0" / "inversion.json").read_text())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the candidates and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("inversion_benchmark"))
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    options = parser.parse_args(arguments)
    print("| prompt | start | rate | steps | loss before | half-way | after | norm of the row | s per 1,000 steps | peak MiB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.only:
        record = learn(name, options.workdir)
        word = record["words"][0]
        losses = word["shots_loss"]
        shown = [f"{losses[place][1]:.4f}" for place in (0, len(losses) // 2, -1)]
        cells = [
            record["templates"][0].replace("{}", "CLASS"),
            record["initial"],
            record["learning_rate"],
            record["steps"],
            *shown,
            f"{word['row_norms'][0][0]:.2f}",
            "-" if word["seconds_per_1000_steps"] is None else round(word["seconds_per_1000_steps"]),
            record["peak_bytes"]["host"] >> 20,
        ]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
