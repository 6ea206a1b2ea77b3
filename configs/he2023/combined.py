"""Classifier tuning (He et al. 2023) and bridged transfer (Li et al. 2024) on one CLIP model, one generator and one budget.

    bridgejax run --config configs/he2023/combined.py --workdir W                    # the embedded task
    bridgejax tune --config configs/he2023/combined.py:eurosat --workdir T           # one data set in full: each arm's rate, by
    bridgejax run --config configs/he2023/combined.py:eurosat --workdir W --config.training.tuned=T/tuning.json   # validation

The paper of either family does not have the other: He et al. keep the encoder frozen, Li et al. train all of the network.
Every arm here that trains takes as many steps in all. `bridged_tuned` lets synthetic images train all of the network and then
tunes the head on real and synthetic ones; `tuned_mix_long` tunes it from the start. Bridged transfer++ draws a new head at the
switch; in `bridged_plus_plus_text` that of the class names takes its place. With the embedded task each arm has a rate of its
own, the best of five on drawn emoji, without a photograph (docs/results/tuning.md). At full size: not run.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import FEW_SHOT, is_full, paper_config
from bridgejax.recipes import at_rate

FULL = FEW_SHOT
RATES: dict[str, float] = {  # arm → rate with the embedded task: the part `combined` of configs/tuning.py
    **{"vanilla_long": 0.0005, "bridged": 0.0005, "bridged_plus_plus": 0.002, "bridged_plus_plus_text": 0.0001},
    **{"tuned_real_long": 0.008, "tuned_synthetic_real": 0.008, "tuned_mix_long": 0.03, "bridged_tuned": 0.0005},
}


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    mix = config.recipes.tuned_mix[0]
    config.recipes.tuned_mix_long = ({**mix, "length": 2.0},)
    config.recipes.tuned_real_long = ({**config.recipes.tuned_real[0], "length": 2.0},)
    # What suits all of the network, by SGD, is about a sixteenth of what suits the head, by AdamW (docs/results/tuning.md).
    config.recipes.bridged_tuned = ({"data": "synthetic", "lr_scale": 1 / 16}, mix)
    synthetic, real = config.recipes.bridged_plus_plus
    config.recipes.bridged_plus_plus_text = (synthetic, {**real, "reset": "initial_head"})
    bridging = ("vanilla_long", "bridged", "bridged_plus_plus", "bridged_plus_plus_text")
    tuning = ("tuned_real_long", "tuned_synthetic_real", "tuned_mix_long")
    config.arms = ("zero_shot", *bridging, *tuning, "bridged_tuned")
    config.study.baseline = "vanilla_long"
    config.task.validation_per_class = 2 if is_full(config) else 1
    config.task.shots = 16 if is_full(config) else 4
    config.tuning.learning_rates = (0.0001, 0.0005, 0.002, 0.008, 0.03)
    if not is_full(config):
        config.training.base_steps = 60  # a step of all layers is slow on a CPU
    if config.task.source == "builtin:tux_photos":
        config.task.validation_per_class = 0
        for arm, rate in RATES.items():
            config.recipes[arm] = at_rate(config.recipes[arm], rate)
    return config
