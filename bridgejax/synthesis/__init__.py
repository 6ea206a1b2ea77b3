"""Plan → generate → store: labelled images from class names; score → select: which of them to train on."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bridgejax.synthesis.generate import GeneratedSet, ImageGenerator, generate_set
from bridgejax.synthesis.guidance import RealGuidance
from bridgejax.synthesis.plan import GenerationPlan, PlannedImage, make_plan
from bridgejax.synthesis.reader import SyntheticRecord, SyntheticSet, open_set

if TYPE_CHECKING:
    from bridgejax.synthesis.scores import score_set
    from bridgejax.synthesis.selection import select
    from bridgejax.synthesis.similarity import nearest_earlier, real_margins

# Networks are imported with what scores by them alone.
_HOMES = {
    "nearest_earlier": "similarity",
    "real_margins": "similarity",
    "score_set": "scores",
    "select": "selection",
}

__all__ = [
    "GeneratedSet",
    "GenerationPlan",
    "ImageGenerator",
    "PlannedImage",
    "RealGuidance",
    "SyntheticRecord",
    "SyntheticSet",
    "generate_set",
    "make_plan",
    "nearest_earlier",
    "open_set",
    "real_margins",
    "score_set",
    "select",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
