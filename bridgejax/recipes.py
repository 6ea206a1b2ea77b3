"""The recipes every config starts with: data, not code."""

from __future__ import annotations

from typing import Any


def default_recipes() -> dict[str, list[dict[str, Any]]]:
    """Returns the default recipes; filled from the training room's table."""
    from bridgejax.training.recipe_table import default_recipes as table

    return table()
