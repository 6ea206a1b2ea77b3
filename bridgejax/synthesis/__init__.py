"""Plan → generate → store: labelled images from class names."""

from __future__ import annotations

from bridgejax.synthesis.generate import generate_set
from bridgejax.synthesis.plan import Plan, PlanItem, make_plan
from bridgejax.synthesis.sets import SyntheticSet, open_set

__all__ = ["Plan", "PlanItem", "SyntheticSet", "generate_set", "make_plan", "open_set"]
