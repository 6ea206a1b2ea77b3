"""Counts what the tables and figures of Li et al. 2024 cost at full size and writes docs/results/paper_cost.md.

    python -m benchmarks paper_cost --seconds-per-image 1.0 --seconds-per-step 0.05

Images, runs and steps are counted from configs/bridged_transfer/; the two rates are assumptions about the device and are
printed with the table. Nothing is generated or trained. Where studies share images, they are counted once per study. With
--quick the table is printed and the page left as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "paper_cost.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds-per-image", type=float, default=1.0, help="assumed, of Stable Diffusion 1.5 at 512 pixels")
    parser.add_argument("--seconds-per-step", type=float, default=0.05, help="assumed, of an optimiser step of 64 images")
    parser.add_argument("--quick", action="store_true", help="print the page and leave the file as it is")
    options = parser.parse_args(arguments)
    from bridgejax.files import write_atomic
    from bridgejax.papers.bridged_transfer import full_arguments, full_cost, rounded

    rates = {"seconds_per_image": options.seconds_per_image, "seconds_per_step": options.seconds_per_step}
    text = (
        "# What the paper's tables and figures cost at full size\n\n`python -m benchmarks paper_cost "
        f"--seconds-per-image {options.seconds_per_image:g} --seconds-per-step {options.seconds_per_step:g}`: counted from "
        "configs/bridged_transfer/, not run. Both rates are assumptions, per device.\n\n"
        "| config | variants | synthetic images | training runs | optimiser steps | hours to generate | hours to train |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    )
    for file in sorted((ROOT / "configs" / "bridged_transfer").glob("*.py")):
        found = full_cost(file, **rates)
        counts = " | ".join(f"{value:,}" for value in (found.images, found.runs, found.steps))
        hours = f"{rounded(found.generation_hours)} | {rounded(found.training_hours)}"
        text += f"| `{file.name}` | {len(full_arguments(file))} | {counts} | {hours} |\n"
    if not options.quick:
        write_atomic(RESULTS, text)
    print(text)
