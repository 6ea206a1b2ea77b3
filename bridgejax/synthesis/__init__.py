"""Plan → generate → store: labelled images from class names; score → select: which of them to train on."""

from __future__ import annotations

from bridgejax.synthesis.generate import GeneratedSet, ImageGenerator, generate_set
from bridgejax.synthesis.plan import GenerationPlan, PlannedImage, make_plan
from bridgejax.synthesis.reader import SyntheticRecord, SyntheticSet, open_set
from bridgejax.synthesis.scores import score_set
from bridgejax.synthesis.selection import select
from bridgejax.synthesis.similarity import nearest_earlier, real_margins

__all__ = [
    "GeneratedSet",
    "GenerationPlan",
    "ImageGenerator",
    "PlannedImage",
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
