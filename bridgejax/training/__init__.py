"""Training: losses, optimisers, jitted steps, checkpoints, recipes and the loop.

Names load when they are first used, so that reading the recipe table imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bridgejax.allocator import keep_freed_memory

if TYPE_CHECKING:
    from bridgejax.recipes import Recipe, Stage, default_recipes, recipe_from_config
    from bridgejax.training.judging import evaluate
    from bridgejax.training.loop import train_recipe
    from bridgejax.training.losses import cross_entropy, soft_target
    from bridgejax.training.optimizers import Optimizer, Schedule, make_optimizer
    from bridgejax.training.run import RunResult
    from bridgejax.training.state import TrainState
    from bridgejax.training.steps import make_eval_step, make_train_step, mixup

_HOMES = {
    "default_recipes": "..recipes",
    "RunResult": "run",
    "evaluate": "judging",
    "train_recipe": "loop",
    "cross_entropy": "losses",
    "soft_target": "losses",
    "Optimizer": "optimizers",
    "Schedule": "optimizers",
    "make_optimizer": "optimizers",
    "Recipe": "..recipes",
    "Stage": "..recipes",
    "recipe_from_config": "..recipes",
    "TrainState": "state",
    "make_eval_step": "steps",
    "make_train_step": "steps",
    "mixup": "steps",
}

__all__ = [
    "Optimizer",
    "Recipe",
    "RunResult",
    "Schedule",
    "Stage",
    "TrainState",
    "cross_entropy",
    "default_recipes",
    "evaluate",
    "make_eval_step",
    "make_optimizer",
    "make_train_step",
    "mixup",
    "recipe_from_config",
    "soft_target",
    "train_recipe",
]


keep_freed_memory()  # before the threads that run programs start


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    return getattr(importlib.import_module(home if home.startswith(".") else f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
