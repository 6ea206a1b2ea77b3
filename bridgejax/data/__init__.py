"""Real and synthetic images as streams; the only room that imports TensorFlow, and only when a stream is opened."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridgejax.data.examples import Batch, Examples, Task
    from bridgejax.data.shared_streams import shared_eval_batches, shared_train_batches
    from bridgejax.data.streams import eval_batches, train_batches, train_positions
    from bridgejax.data.synthetic import synthetic_examples
    from bridgejax.data.task_folder import export_task
    from bridgejax.data.tasks import load_task

_HOMES = {
    "Batch": "examples",
    "Examples": "examples",
    "Task": "examples",
    "eval_batches": "streams",
    "export_task": "task_folder",
    "load_task": "tasks",
    "shared_eval_batches": "shared_streams",
    "shared_train_batches": "shared_streams",
    "synthetic_examples": "synthetic",
    "train_batches": "streams",
    "train_positions": "streams",
}

__all__ = [
    "Batch",
    "Examples",
    "Task",
    "eval_batches",
    "export_task",
    "load_task",
    "shared_eval_batches",
    "shared_train_batches",
    "synthetic_examples",
    "train_batches",
    "train_positions",
]


def __getattr__(name: str) -> object:
    """Imports on first use: the record reader is shared with rooms that run without TensorFlow."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
