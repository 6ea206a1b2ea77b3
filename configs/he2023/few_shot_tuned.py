"""Figure 1 of He et al. 2023 with every arm at a rate of its own, which validation images choose.

    bridgejax tune --config configs/he2023/few_shot_tuned.py --workdir T
    bridgejax run --config configs/he2023/few_shot_tuned.py --workdir W --config.training.tuned=T/tuning.json

The arms of `few_shot.py`, which has the paper's rates. Of the real images of a class one is for validation: with 1 shot to
train on the class has 2, with 4 it has 5 (`task.shots` counts both). Every arm tries the same rates with the same seeds; a
classifier that takes no step has nothing to choose. The paper does not say how its rates were found. At full size: not run.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import FEW_SHOT, add_few_shot_arms, paper_config

FULL = FEW_SHOT


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    add_few_shot_arms(config)
    config.task.validation_per_class = 1
    config.study.shots = (2, 5)
    config.study.seeds = 10
    config.tuning.learning_rates = (0.0005, 0.002, 0.008)
    config.tuning.seeds = 5
    return config
