"""Plan → generate → store: labelled images from class names."""

from __future__ import annotations

from bridgejax.synthesis.generate import GeneratedSet, ImageGenerator, generate_set
from bridgejax.synthesis.plan import GenerationPlan, PlannedImage, make_plan
from bridgejax.synthesis.reader import SyntheticRecord, SyntheticSet, open_set

__all__ = [
    "GeneratedSet",
    "GenerationPlan",
    "ImageGenerator",
    "PlannedImage",
    "SyntheticRecord",
    "SyntheticSet",
    "generate_set",
    "make_plan",
    "open_set",
]
