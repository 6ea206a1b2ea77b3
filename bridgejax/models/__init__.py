"""Every network, one file each, and the tables by which published weights enter and leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridgejax.allocator import keep_freed_memory

if TYPE_CHECKING:
    from bridgejax.models.classifier import Preprocessing
    from bridgejax.models.detectron2_names import detectron2_tensors
    from bridgejax.models.efficientnet_lite import EfficientNetLite
    from bridgejax.models.registry import load_classifier, save_classifier
    from bridgejax.models.reset import reinitialise, reset_blocks, reset_head

__all__ = [
    "EfficientNetLite",
    "Preprocessing",
    "detectron2_tensors",
    "load_classifier",
    "reinitialise",
    "reset_blocks",
    "reset_head",
    "save_classifier",
]

_HOME = {
    "EfficientNetLite": "bridgejax.models.efficientnet_lite",
    "Preprocessing": "bridgejax.models.classifier",
    "detectron2_tensors": "bridgejax.models.detectron2_names",
    "load_classifier": "bridgejax.models.registry",
    "reinitialise": "bridgejax.models.reset",
    "reset_blocks": "bridgejax.models.reset",
    "reset_head": "bridgejax.models.reset",
    "save_classifier": "bridgejax.models.registry",
}


keep_freed_memory()  # before the threads that run programs start


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for, so that `import bridgejax.models` stays light."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
