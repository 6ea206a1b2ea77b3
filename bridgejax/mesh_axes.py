"""Mesh axes and parameter rules as configs write them, read without JAX."""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable
from typing import Any

from bridgejax.errors import UserError

DATA_AXIS = "data"
FSDP_AXIS = "fsdp"
MODEL_AXIS = "model"
RULES_FORM = r"(regular expression, axes) pairs such as (r'unet.*to_q\.kernel$', (None, 'model'))"
MESH_FORM = "(axis, size) pairs such as (('data', -1),): different axes, sizes above 0, at most one of them -1"

# What one dimension of a parameter is split over: nothing, an axis, or several.
DimensionAxes = None | str | tuple[str, ...]


def mesh_axes(mesh: Any) -> tuple[tuple[str, int], ...]:
    """Returns the (axis, size) pairs of a mesh, checked as far as that goes without its devices.

    Raises:
      UserError: it is something else, an axis comes twice, or a size is neither above 0 nor the one -1.
    """
    try:
        pairs = tuple((axis, size) for axis, size in mesh)
        names, sizes = [axis for axis, _ in pairs], [size for _, size in pairs]
        right = all(isinstance(axis, str) for axis in names) and len(set(names)) == len(names) and sizes.count(-1) <= 1
        whole = all(isinstance(size, numbers.Integral) and not isinstance(size, bool) for size in sizes)
        right = right and whole and all(size > 0 or size == -1 for size in sizes)
    except (TypeError, ValueError):
        right = False
    if not right:
        raise UserError(f"mesh is {mesh!r}; it should be {MESH_FORM}.")
    return tuple((axis, int(size)) for axis, size in pairs)


def axis_rules(pairs: Any) -> tuple[tuple[str, tuple[DimensionAxes, ...]], ...]:
    """Returns the rules of a user by which parameters are split: a regular expression and the axes of leading dimensions.

    Args:
      pairs: (regular expression, axes) in order; `axes` is a sequence (or a PartitionSpec) with an axis name, a sequence of
        axis names or None for each leading dimension.

    Raises:
      UserError: a pair is not of that form; it is shown.
    """
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise _wrong_rule(pairs)
    rules = []
    for pair in pairs:
        try:
            pattern, axes = pair
            re.compile(pattern)
            dimensions = tuple(tuple(axis) if isinstance(axis, list) else axis for axis in axes)
            names = axis_names(dimensions)
            right = not isinstance(axes, str) and len(set(names)) == len(names) and all(isinstance(name, str) for name in names)
        except (TypeError, ValueError, re.error):
            right = False
        if not right:
            raise _wrong_rule(pair)
        rules.append((pattern, dimensions))
    return tuple(rules)


def axis_names(dimensions: Iterable[DimensionAxes]) -> list[str]:
    """Returns the mesh axes that a rule (or a PartitionSpec) names, in order."""
    return [name for axis in dimensions if axis is not None for name in ((axis,) if isinstance(axis, str) else axis)]


def _wrong_rule(pair: Any) -> UserError:
    return UserError(f"mesh_rules holds {pair!r}; give {RULES_FORM}.")
