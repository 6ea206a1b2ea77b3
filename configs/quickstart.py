"""The quick start: eleven classes of photographs, a tiny generator, five recipes at one and at four photographs per class.

    bridgejax run --config configs/quickstart.py --workdir quickstart

The prompts are sentences (docs/language.md). What trains, rates and lengths were chosen on another task, 3D emoji, with as many
candidates for every arm: docs/results/tuning.md. What it should reach, and in what time, is measured by `python -m benchmarks
quickstart` and kept in docs/results/quickstart.md; ten seeds on two tasks are in docs/results/two_tasks.md.
"""

from __future__ import annotations

from typing import Any

from bridgejax.config import default_config

# The control, and what is compared with it; mixed_50_filtered takes the half of each class to which the embedded CLIP model
# gives the higher scores.
ARMS = ("vanilla_long", "synthetic_only", "mixed_50", "mixed_50_filtered", "bridged")
# The best for the control, docs/results/tuning.md; the steps of every arm in all are twice BASE_STEPS.
TRAINABLE = ("all",)
BASE_STEPS = 20
LEARNING_RATES = {"vanilla_long": 0.003, "synthetic_only": 0.01, "mixed_50": 0.003, "mixed_50_filtered": 0.003, "bridged": 0.001}


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg`, if given, is the number of real photographs per class, in place of one and four."""
    config = default_config()
    config.task.shots = int(arg) if arg else 4
    config.study.shots = () if arg else (1, 4)
    config.study.seeds = 3
    config.study.parallel_seeds = "auto"
    config.prompts.source = "builtin:tux_photos"
    config.generator.steps = 12
    config.generator.guidance_scale = 3.0
    config.generator.batch_size = 32
    config.synthetic.per_class = 32
    config.filter.classifier = "builtin:tiny_clip"
    config.classifier.image_size = 96
    config.training.base_steps = BASE_STEPS
    config.training.evaluations = 2
    config.recipes.mixed_50_filtered = tuple(
        {**stage, "synthetic_filter": ("percentile:50",)} for stage in config.recipes.mixed_50
    )
    for arm in ARMS:
        changes = {"trainable": TRAINABLE, "learning_rate": LEARNING_RATES[arm]}
        config.recipes[arm] = tuple({**stage, **changes} for stage in config.recipes[arm])
    config.arms = ARMS
    return config
