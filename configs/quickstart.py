"""The quick start: eleven classes of photographs, a tiny generator, three recipes at one and at four photographs per class.

    bridgejax run --config configs/quickstart.py --workdir quickstart

Prompts and guidance were chosen on another task, 3D emoji: docs/results/generator.md. Rates are the best of that task's record,
docs/results/tuning.md, which was made with an earlier generator; `mixed_50` has that of `mixed`, and `synthetic_only`, which
other configs take over, that of the study of generated images alone. What it reaches, and in what time, is measured by
`python -m benchmarks quickstart` and kept in docs/results/quickstart.md; `python -m benchmarks two_tasks` measures ten seeds
on two tasks.
"""

from __future__ import annotations

from typing import Any

from bridgejax.config import default_config

# The step-matched control first; mixed_50 is half synthetic, half real in every batch.
LEARNING_RATES = {"vanilla_long": 0.003, "synthetic_only": 0.003, "mixed_50": 0.003, "bridged": 0.001}


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg`, if given, is the number of real photographs per class, in place of one and four."""
    config = default_config()
    config.task.shots = int(arg) if arg else 4
    config.study.shots = () if arg else (1, 4)
    config.study.seeds = 3
    config.study.parallel_seeds = "auto"
    config.prompts.source = "template"
    config.prompts.template = "a photo of a {}"
    config.generator.steps = 12
    config.generator.guidance_scale = 3.0
    config.generator.batch_size = 32
    config.synthetic.per_class = 64
    config.classifier.image_size = 96
    # Half the usual batch for half the memory, and twice the steps: 80 in all.
    config.training.batch_size = 16
    config.training.eval_batch_size = 32
    config.training.base_steps = 40
    config.training.evaluations = 2
    config.arms = tuple(arm for arm in LEARNING_RATES if arm != "synthetic_only")  # which has configs/generator.py to itself
    config.report.synthetic_set = "train"
    for arm, rate in LEARNING_RATES.items():
        config.recipes[arm] = tuple({**stage, "learning_rate": rate} for stage in config.recipes[arm])
    return config
