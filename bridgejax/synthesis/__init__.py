"""Plan → generate → store: labelled images from class names; score → select: which of them to train on."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bridgejax.synthesis.generate import GeneratedSet, ImageGenerator, generate_set
from bridgejax.synthesis.guidance import RealGuidance
from bridgejax.synthesis.plan import GenerationPlan, PlannedImage, make_plan
from bridgejax.synthesis.reader import SyntheticRecord, SyntheticSet, open_set

if TYPE_CHECKING:
    from bridgejax.synthesis.export import export_set
    from bridgejax.synthesis.merge import merge_sets
    from bridgejax.synthesis.scores import score_set
    from bridgejax.synthesis.selection import select
    from bridgejax.synthesis.similarity import nearest_earlier, real_margins
    from bridgejax.synthesis.verify import SetCheck, verify_set

# Networks are imported with what scores by them alone.
_HOMES = {
    "SetCheck": "verify",
    "export_set": "export",
    "merge_sets": "merge",
    "nearest_earlier": "similarity",
    "real_margins": "similarity",
    "score_set": "scores",
    "select": "selection",
    "verify_set": "verify",
}

__all__ = [
    "GeneratedSet",
    "GenerationPlan",
    "ImageGenerator",
    "PlannedImage",
    "RealGuidance",
    "SetCheck",
    "SyntheticRecord",
    "SyntheticSet",
    "export_set",
    "generate_set",
    "make_plan",
    "merge_sets",
    "nearest_earlier",
    "open_set",
    "real_margins",
    "score_set",
    "select",
    "verify_set",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
