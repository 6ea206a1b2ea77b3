"""Classifier tuning (He et al. 2023) and bridged transfer (Li et al. 2024) on one CLIP model, one generator and one budget.

    bridgejax tune --config configs/he2023/combined.py --workdir T                   # each arm's rate, by validation images
    bridgejax run --config configs/he2023/combined.py --workdir W --config.training.tuned=T/tuning.json
    bridgejax run --config configs/he2023/combined.py:eurosat --workdir W            # one data set in full, untuned

The paper of either family does not have the other: He et al. keep the encoder frozen, Li et al. train all of the network.
Every arm here that trains takes as many steps in all. `bridged_tuned` lets synthetic images train all of the network and then
tunes the head on real and synthetic ones; `tuned_mix_long` tunes it from the start. At full size: not run.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import FEW_SHOT, is_full, paper_config

FULL = FEW_SHOT


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    mix = config.recipes.tuned_mix[0]
    config.recipes.tuned_mix_long = ({**mix, "length": 2.0},)
    config.recipes.tuned_real_long = ({**config.recipes.tuned_real[0], "length": 2.0},)
    config.recipes.bridged_tuned = ({"data": "synthetic"}, mix)
    bridging = ("vanilla_long", "bridged", "bridged_plus_plus")
    tuning = ("tuned_real_long", "tuned_synthetic_real", "tuned_mix_long")
    config.arms = ("zero_shot", *bridging, *tuning, "bridged_tuned")
    config.study.baseline = "vanilla_long"
    config.task.validation_per_class = 2 if is_full(config) else 1
    config.task.shots = 16 if is_full(config) else 4
    config.tuning.learning_rates = (0.0005, 0.002, 0.008)
    return config
