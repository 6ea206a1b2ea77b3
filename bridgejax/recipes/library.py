"""The whole matrix of recipes, as plain data.

A recipe is a list of stages, a stage a dict of the keys of `Stage` and `StageLength`. What is left out comes from the config's
`training`, else from `Stage`. So all arms have the same rates, decay and schedule, and differ only in what they are named for.
An ordinary stage lasts `training.base_steps`. At the switch the optimiser and the schedule start afresh. Running batch
statistics stay as they are unless the config or a stage says `batch_norm: train`.

"bridged in all" below is the number of optimiser steps of `bridged`, both stages together. docs/recipes.md says of each
recipe what it isolates, and which question of the literature it answers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

# Mixup's α wherever a recipe mixes: our choice, since Li et al. publish none; 0.2 is what Zhang et al. 2018 use on ImageNet.
MIXUP_ALPHA = 0.2
_MIXUP = {"mixup_alpha": MIXUP_ALPHA}

Stages = list[dict[str, object]]

# The methods of Li et al. 2024 (arXiv 2403.19866), and the three controls that belong in every study.
METHODS: dict[str, Stages] = {
    "vanilla": [{"data": "real"}],
    # As many steps as bridged in all.
    "vanilla_long": [{"data": "real", "steps_of": "bridged"}],
    "synthetic_only": [{"data": "synthetic", "steps_of": "bridged"}],
    # The union of all real and synthetic images, every image alike.
    "mixed": [{"data": "mixed", "steps_of": "bridged"}],
    # The head is kept at the switch.
    "bridged": [{"data": "synthetic"}, {"data": "real"}],
    "bridged_reset": [{"data": "synthetic"}, {"data": "real", "reset": "head"}],
    # Mixup on the synthetic images only.
    "bridged_plus_plus": [{"data": "synthetic", **_MIXUP}, {"data": "real", "reset": "head"}],
}

# He et al. 2023 (arXiv 2210.07574): only the head trains, on features of images as they are, so that each is encoded once.
# `pretrained` is the classifier with which a run starts: of a CLIP model (`classifier.templates`) the frozen zero-shot head.
_HEAD = {"trainable": ["head"], "batch_norm": "frozen", "augment": False, "optimizer": "adamw", "weight_decay": 0.1}
_HEAD |= {"clip_norm": 1.0}
_SOFT = {"loss": "soft_target", "teacher": "pretrained"}
# A batch of 32 real and 512 synthetic images. The paper adds the losses of both, which here are half of the sum, and halves the
# rate; half the bound on the gradient makes the clipping theirs.
_MIX = {"batch_size": 544, "synthetic_share": 16 / 17, "synthetic_loss": 0.5, "lr_scale": 0.5, **_HEAD, "clip_norm": 0.5}

CLASSIFIER_TUNING: dict[str, Stages] = {
    # The classifier as it is.
    "zero_shot": [],
    # Synthetic images alone: the method, and without the teacher.
    "tuned_synthetic": [{"data": "synthetic", **_HEAD, **_SOFT}],
    "tuned_synthetic_hard": [{"data": "synthetic", **_HEAD}],
    # Real images alone: a new head (linear probe), and the one that the classifier has.
    "linear_probe": [{"data": "real", **_HEAD, "reset": "head"}],
    "tuned_real": [{"data": "real", **_HEAD}],
    # Tip-Adapter (Zhang et al. 2022), as it is made, which takes a step at rate 0, and with its keys trained.
    "tip_adapter": [{"data": "real", **_HEAD, "head": "cache", "learning_rate": 0.0, "steps": 1}],
    "tip_adapter_f": [
        {"data": "real", **_HEAD, "head": "cache", "trainable": [r"^head\.keys"], "weight_decay": 0.01, "lr_scale": 0.5}
    ],
    # CoOp (Zhou et al. 2022): the head of class names behind sixteen learned tokens.
    "coop": [
        {"data": "real", **_HEAD, "head": "prompt", "trainable": [r"^head\.context"]}
        | {"optimizer": "sgd", "weight_decay": 5e-4, "batch_size": 32, "clip_norm": None}
    ],
    # Both: in one batch, or one after the other; real images follow no teacher.
    "tuned_mix": [{"data": "mixed", **_MIX, **_SOFT, "soft_images": "synthetic"}],
    "tuned_synthetic_real": [{"data": "synthetic", **_HEAD, **_SOFT}, {"data": "real", **_HEAD}],
    "tuned_real_synthetic": [{"data": "real", **_HEAD}, {"data": "synthetic", **_HEAD, **_SOFT}],
}

# What tells synthetic images, steps, regularisers and order apart. Unless said otherwise: as many steps as bridged in all.
CONTROLS: dict[str, Stages] = {
    # -- the budget: as many passes over the real images as bridged makes (that is, as its real stages), not as many steps.
    "vanilla_epochs": [{"data": "real", "passes_of": "bridged"}],
    # -- two phases without synthetic images: does the switch alone help? (The last: ++ with real images.)
    "real_real": [{"data": "real", "steps_of": "bridged[0]"}, {"data": "real", "steps_of": "bridged[1]"}],
    "real_reset_real": [
        {"data": "real", "steps_of": "bridged[0]"},
        {"data": "real", "steps_of": "bridged[1]", "reset": "head"},
    ],
    "real_reset_real_mixup": [
        {"data": "real", "steps_of": "bridged[0]", **_MIXUP},
        {"data": "real", "steps_of": "bridged[1]", "reset": "head"},
    ],
    # -- Mixup alone, without the reset, in the other stage, in both.
    "vanilla_mixup": [{"data": "real", "steps_of": "bridged", **_MIXUP}],
    "bridged_mixup": [{"data": "synthetic", **_MIXUP}, {"data": "real"}],
    "bridged_reset_mixup_real": [{"data": "synthetic"}, {"data": "real", "reset": "head", **_MIXUP}],
    "bridged_reset_mixup_both": [{"data": "synthetic", **_MIXUP}, {"data": "real", "reset": "head", **_MIXUP}],
    # -- mixing, regularised as the bridged methods are.
    "mixed_mixup": [{"data": "mixed", "steps_of": "bridged", **_MIXUP}],
    "mixed_mixup_finish": [
        {"data": "mixed", "steps_of": "bridged", "length": 0.75, **_MIXUP},
        {"data": "real", "rest_of": "bridged"},
    ],
    "mixed_mixup_reset_finish": [
        {"data": "mixed", "steps_of": "bridged", "length": 0.75, **_MIXUP},
        {"data": "real", "rest_of": "bridged", "reset": "head"},
    ],
    # -- the share of synthetic images by sampling: so many of every batch.
    "mixed_10": [{"data": "mixed", "steps_of": "bridged", "synthetic_share": 0.10}],
    "mixed_25": [{"data": "mixed", "steps_of": "bridged", "synthetic_share": 0.25}],
    "mixed_50": [{"data": "mixed", "steps_of": "bridged", "synthetic_share": 0.50}],
    "mixed_90": [{"data": "mixed", "steps_of": "bridged", "synthetic_share": 0.90}],
    "mixed_50_mixup": [{"data": "mixed", "steps_of": "bridged", "synthetic_share": 0.50, **_MIXUP}],
    # -- the same share by weight: half of every batch is synthetic, and carries so much of the loss (He et al. 2023: 1 to 1).
    "mixed_loss_10": [{"data": "mixed", "steps_of": "bridged", "synthetic_share": 0.5, "synthetic_loss": 0.10}],
    "mixed_loss_25": [{"data": "mixed", "steps_of": "bridged", "synthetic_share": 0.5, "synthetic_loss": 0.25}],
    "mixed_loss_50": [{"data": "mixed", "steps_of": "bridged", "synthetic_share": 0.5, "synthetic_loss": 0.50}],
    "mixed_loss_90": [{"data": "mixed", "steps_of": "bridged", "synthetic_share": 0.5, "synthetic_loss": 0.90}],
    # -- another order.
    "real_synthetic": [{"data": "real", "steps_of": "bridged[1]"}, {"data": "synthetic", "steps_of": "bridged[0]"}],
    "real_synthetic_real": [
        {"data": "real", "steps_of": "bridged[1]", "length": 0.5},
        {"data": "synthetic", "steps_of": "bridged[0]"},
        {"data": "real", "rest_of": "bridged"},
    ],
    # -- from scratch: a new random network, which needs statistics of its own batches.
    "scratch": [{"data": "real", "steps_of": "bridged", "reset": "all", "batch_norm": "train"}],
    "scratch_bridged": [{"data": "synthetic", "reset": "all", "batch_norm": "train"}, {"data": "real", "batch_norm": "train"}],
    "scratch_bridged_plus_plus": [
        {"data": "synthetic", "reset": "all", "batch_norm": "train", **_MIXUP},
        {"data": "real", "reset": "head", "batch_norm": "train"},
    ],
    # -- how much is reset at the switch: the head and the last N blocks. New blocks need statistics of their own batches, so
    # all four have them, the one that resets no block too.
    "bridged_reset_batch_norm": [{"data": "synthetic"}, {"data": "real", "reset": "head", "batch_norm": "train"}],
    "bridged_reset_1_block": [{"data": "synthetic"}, {"data": "real", "reset": "blocks:1", "batch_norm": "train"}],
    "bridged_reset_2_blocks": [{"data": "synthetic"}, {"data": "real", "reset": "blocks:2", "batch_norm": "train"}],
    "bridged_reset_4_blocks": [{"data": "synthetic"}, {"data": "real", "reset": "blocks:4", "batch_norm": "train"}],
    # -- where the switch comes, of the same steps in all.
    "bridged_switch_25": [{"data": "synthetic", "steps_of": "bridged", "length": 0.25}, {"data": "real", "rest_of": "bridged"}],
    "bridged_switch_75": [{"data": "synthetic", "steps_of": "bridged", "length": 0.75}, {"data": "real", "rest_of": "bridged"}],
    # -- a longer first stage (more steps than bridged), and one that stops when the validation images say so (at most as long).
    "bridged_first_double": [{"data": "synthetic", "length": 2.0}, {"data": "real"}],
    "bridged_early_stop": [{"data": "synthetic", "length": 2.0, "early_stop": 3, "early_stop_checks": 10}, {"data": "real"}],
    # -- the second stage: a tenth of the rate; the trunk at rest; batch statistics; one schedule and one optimiser throughout.
    "bridged_low_rate": [{"data": "synthetic"}, {"data": "real", "lr_scale": 0.1}],
    "bridged_frozen": [{"data": "synthetic"}, {"data": "real", "trainable": ["head"]}],
    "bridged_batch_norm": [{"data": "synthetic", "batch_norm": "train"}, {"data": "real", "batch_norm": "train"}],
    "bridged_initial_statistics": [
        {"data": "synthetic", "batch_norm": "train"},
        {"data": "real", "batch_norm": "train", "batch_statistics": "initial"},
    ],
    "bridged_one_schedule": [{"data": "synthetic"}, {"data": "real", "restart_schedule": False, "restart_optimizer": False}],
}


def default_recipes() -> dict[str, Stages]:
    """Returns a fresh copy of the paper's methods and of the controls of every study: name → list of stages."""
    return copy.deepcopy(METHODS)


def control_recipes() -> dict[str, Stages]:
    """Returns a fresh copy of `CONTROLS`."""
    return copy.deepcopy(CONTROLS)


def all_recipes() -> dict[str, Stages]:
    """Returns a fresh copy of every recipe, methods first: what `default_config().recipes` holds."""
    return {**default_recipes(), **control_recipes(), **copy.deepcopy(CLASSIFIER_TUNING)}


def at_rate(stages: Iterable[Mapping[str, Any]], rate: float) -> tuple[dict[str, Any], ...]:
    """Returns a copy of a recipe's stages at a learning rate of their own; a stage's `lr_scale` goes into it."""
    copies = tuple(copy.deepcopy(dict(stage)) for stage in stages)
    for stage in copies:
        stage["learning_rate"] = rate * stage.pop("lr_scale", 1.0)
    return copies
