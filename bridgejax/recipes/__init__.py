"""Recipes as data: the library, a stage's fields, and how a config's lists of stages are read. Pure Python."""

from __future__ import annotations

from bridgejax.recipes.filter_rules import FilterRule, filter_rules
from bridgejax.recipes.lengths import LENGTH_KEYS, StageLength
from bridgejax.recipes.library import CLASSIFIER_TUNING, CONTROLS, all_recipes, at_rate, control_recipes, default_recipes
from bridgejax.recipes.parsing import STAGE_KEYS, recipe_from_config
from bridgejax.recipes.stage import Optimization, Recipe, Stage, reset_depth

__all__ = [
    "CLASSIFIER_TUNING",
    "CONTROLS",
    "LENGTH_KEYS",
    "STAGE_KEYS",
    "FilterRule",
    "Optimization",
    "Recipe",
    "Stage",
    "StageLength",
    "all_recipes",
    "at_rate",
    "control_recipes",
    "default_recipes",
    "filter_rules",
    "recipe_from_config",
    "reset_depth",
]
