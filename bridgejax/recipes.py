"""The default recipes, as plain data for `bridgejax.config.default_config()`; nothing heavy is imported here.

A recipe is a list of stages, a stage a dict of the keys of `bridgejax.training.recipes.Stage` (and `length`, `steps_of`);
what is left out comes from the config's `training`, else from that class. So all arms have the same rates, decay and schedule,
and differ only in what they are named for:

- `vanilla`: real images only, one stage.
- `vanilla_long`: the same, with as many optimiser steps as `bridged` takes in all: the step-matched control.
- `synthetic_only`: synthetic images only, one stage, also as many steps as `bridged` in all.
- `mixed`: one stage on the union of all real and synthetic images, also as many steps as `bridged` in all.
- `bridged`: synthetic, then real (Li et al. 2024, arXiv 2403.19866); the head is kept.
- `bridged_reset`: a new random head before the second stage.
- `bridged_plus_plus`: that, and Mixup in the first stage (α is our choice; the paper's is not published).

A stage lasts `training.base_steps`. At the switch the optimiser and the schedule start afresh. Batch statistics rest unless
the config or a stage says `batch_norm: train`.
"""

from __future__ import annotations

import copy
from typing import Any

_RECIPES: dict[str, list[dict[str, Any]]] = {
    "vanilla": [{"data": "real"}],
    "vanilla_long": [{"data": "real", "steps_of": "bridged"}],
    "synthetic_only": [{"data": "synthetic", "steps_of": "bridged"}],
    "mixed": [{"data": "mixed", "steps_of": "bridged"}],
    "bridged": [{"data": "synthetic"}, {"data": "real"}],
    "bridged_reset": [{"data": "synthetic"}, {"data": "real", "reset": "head"}],
    "bridged_plus_plus": [{"data": "synthetic", "mixup_alpha": 0.2}, {"data": "real", "reset": "head"}],
}


def default_recipes() -> dict[str, list[dict[str, Any]]]:
    """Returns a fresh copy of the default recipes: name → list of stages, in the order above."""
    return copy.deepcopy(_RECIPES)
