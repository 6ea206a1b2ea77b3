"""Real and synthetic images as streams; the only room that imports TensorFlow, and only when a stream is opened."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridgejax.data.examples import Examples, Task
    from bridgejax.data.streams import eval_batches, train_batches
    from bridgejax.data.synthetic import synthetic_examples
    from bridgejax.data.tasks import load_task
    from bridgejax.data.together import eval_batches_together, train_batches_together

_HOMES = {
    "Examples": "examples",
    "Task": "examples",
    "eval_batches": "streams",
    "eval_batches_together": "together",
    "load_task": "tasks",
    "synthetic_examples": "synthetic",
    "train_batches": "streams",
    "train_batches_together": "together",
}

__all__ = [
    "Examples",
    "Task",
    "eval_batches",
    "eval_batches_together",
    "load_task",
    "synthetic_examples",
    "train_batches",
    "train_batches_together",
]


def __getattr__(name: str) -> Any:
    """Imports on first use: the record reader is shared with rooms that run without TensorFlow."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
