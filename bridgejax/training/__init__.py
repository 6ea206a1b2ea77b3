"""Training: objectives, optimisers, jitted steps, checkpoints, and the one driver of single runs and groups of runs.

Names load when they are first used, so that importing this imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bridgejax.allocator import keep_freed_memory

if TYPE_CHECKING:
    from bridgejax.training.eval_step import evaluate, make_eval_step
    from bridgejax.training.groups import train_group
    from bridgejax.training.loop import train_recipe
    from bridgejax.training.mixing import mixup
    from bridgejax.training.objectives import Objective, make_objective
    from bridgejax.training.optimizers import LearningRateSchedule, Optimizer, make_optimizer
    from bridgejax.training.run_options import RunInputs, RunOptions
    from bridgejax.training.run_record import RunResult
    from bridgejax.training.state import TrainState
    from bridgejax.training.train_step import make_train_step

_HOMES = {
    "LearningRateSchedule": "optimizers",
    "Objective": "objectives",
    "Optimizer": "optimizers",
    "RunInputs": "run_options",
    "RunOptions": "run_options",
    "RunResult": "run_record",
    "TrainState": "state",
    "evaluate": "eval_step",
    "make_eval_step": "eval_step",
    "make_objective": "objectives",
    "make_optimizer": "optimizers",
    "make_train_step": "train_step",
    "mixup": "mixing",
    "train_group": "groups",
    "train_recipe": "loop",
}

__all__ = [
    "LearningRateSchedule",
    "Objective",
    "Optimizer",
    "RunInputs",
    "RunOptions",
    "RunResult",
    "TrainState",
    "evaluate",
    "make_eval_step",
    "make_objective",
    "make_optimizer",
    "make_train_step",
    "mixup",
    "train_group",
    "train_recipe",
]


keep_freed_memory()  # before the threads that run programs start


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
