"""The quick start: eleven classes of photographs, a tiny generator, three recipes at one and at four photographs per class.

    bridgejax run --config configs/quickstart.py --workdir quickstart

In every arm the head alone trains, so each image is encoded once and a run takes less than a second: all layers reach more, in
many times the time (docs/results/tuning.md, "What trains"), and configs/bridged_transfer/ trains them as the paper does.
Everything else was chosen on another task, 3D emoji: prompts and guidance in docs/results/generator.md; image size, rates,
steps and images per class in docs/results/tuning.md. What it reaches, and in what time, is measured by
`python -m benchmarks quickstart` and kept in docs/results/quickstart.md; `python -m benchmarks two_tasks` measures more shots
on two tasks.
"""

from __future__ import annotations

from typing import Any

from bridgejax.config import default_config

ARMS = ("vanilla_long", "mixed_50", "bridged")  # the step-matched control first; mixed_50 is half synthetic in every batch
LEARNING_RATE = 0.003
RATES = {"vanilla_long": 0.001}  # of arms that have another
HEAD = {"trainable": ("head",), "augment": False}  # without augmentation, an image's features are the same at every step


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg`, if given, is the number of real photographs per class, in place of one and four."""
    config = default_config()
    config.task.shots = int(arg) if arg else 4
    config.study.shots = () if arg else (1, 4)
    config.study.seeds = 10
    config.study.parallel_seeds = "auto"
    config.prompts.source = "template"
    config.prompts.template = "a photo of a {}"
    config.generator.steps = 12
    config.generator.guidance_scale = 3.0
    config.generator.batch_size = 32
    config.synthetic.per_class = 64
    config.classifier.image_size = 160
    config.training.batch_size = 16
    config.training.eval_batch_size = 32
    config.training.base_steps = 640
    config.training.evaluations = 8
    config.training.learning_rate = LEARNING_RATE
    config.arms = ARMS
    config.report.synthetic_set = "train"
    for arm, stages in list(config.recipes.items()):
        # Other arms that are chosen on the command line compare alike; layers that start anew must train.
        if all(stage.get("reset", "none") in ("none", "head") and "batch_norm" not in stage for stage in stages):
            rate = {"learning_rate": RATES[arm]} if arm in RATES else {}
            config.recipes[arm] = tuple({**HEAD, **rate, **stage} for stage in stages)
    return config
