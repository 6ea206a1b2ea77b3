"""Every network, one file each, and the tables by which published weights enter and leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridgejax.models.efficientnet_lite import EfficientNetLite, Preprocessing
    from bridgejax.models.registry import load_classifier, reset_head, save_classifier

__all__ = ["EfficientNetLite", "Preprocessing", "load_classifier", "reset_head", "save_classifier"]

_HOME = {
    "EfficientNetLite": "bridgejax.models.efficientnet_lite",
    "Preprocessing": "bridgejax.models.efficientnet_lite",
    "load_classifier": "bridgejax.models.registry",
    "reset_head": "bridgejax.models.registry",
    "save_classifier": "bridgejax.models.registry",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for, so that `import bridgejax.models` stays light."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
