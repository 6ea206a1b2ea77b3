"""The quick start: eleven classes of photographs, a tiny generator, five recipes, three seeds, on a laptop's CPU.

    bridgejax run --config configs/quickstart.py --workdir quickstart

What it should reach, and in what time, is measured by `python -m benchmarks quickstart` and kept in
docs/results/quickstart.md.
"""

from __future__ import annotations

from typing import Any

from bridgejax.config import default_config


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg`, if given, is the number of real photographs per class."""
    config = default_config()
    config.task.shots = int(arg) if arg else 4
    config.generator.steps = 12
    config.generator.guidance_scale = 3.0
    config.generator.batch_size = 32
    config.synthetic.per_class = 32
    config.classifier.image_size = 96
    # Rates: the best of three for each arm on another task, docs/results/tuning.md.
    config.training.learning_rate = 0.003
    for arm, rate in (("synthetic_only", 0.01), ("bridged", 0.001)):
        config.recipes[arm] = tuple({**stage, "learning_rate": rate} for stage in config.recipes[arm])
    config.training.base_steps = 15
    config.training.evaluations = 2
    config.arms = ("vanilla_long", "synthetic_only", "mixed", "bridged", "bridged_plus_plus")
    config.study.seeds = 3
    return config
