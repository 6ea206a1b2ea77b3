"""How long a stage lasts: in steps, in multiples of an ordinary stage, or measured against another recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridgejax.errors import UserError, nearest

# The keys that measure a stage against another recipe; a stage has at most one of them.
REFERENCES = ("steps_of", "rest_of", "passes_of")
LENGTH_KEYS = ("length", *REFERENCES)


def stage_steps(
    where: str,
    plain: Mapping[str, Any],
    *,
    unit: tuple[int, str],
    before: int,
    resolve: Callable[[str, str], Any],
) -> int:
    """Returns how many optimiser steps a stage takes, at least 1.

    Args:
      where: the stage, for messages.
      plain: the stage as the config states it. `steps_of` names a recipe, or one of its stages as "NAME[0]": as many steps as
        that takes, times `length` if there is one. `rest_of` names a recipe: what is left of its steps after the stages before
        this one. `passes_of` names a recipe: as many real images as that one draws in all. Without them, `length` times
        the unit.
      unit: steps of an ordinary stage, and the key that says so.
      before: steps of the recipe's stages before this one.
      resolve: (recipe name, key that names it) → the built `Recipe`.

    Raises:
      UserError: two of the keys, a length that is not above 0, an unknown recipe or stage, or passes without real images.
    """
    named = [key for key in REFERENCES if plain.get(key) is not None]
    length = plain.get("length")
    if len(named) > 1 or (named and plain.get("steps") is not None):
        other = named[1] if len(named) > 1 else "steps"
        raise UserError(f"{where} has {named[0]} and also {other}; keep one.")
    if length is not None:
        if isinstance(length, bool) or not isinstance(length, int | float) or not math.isfinite(length) or length <= 0:
            raise UserError(f"{where}.length is {length!r}; give a number above 0, in multiples of {_of(plain, unit[1])}.")
        if named and named[0] != "steps_of":
            raise UserError(f"{where} has {named[0]} and also length; keep one.")
    if not named:
        return unit[0] if length is None else max(1, round(unit[0] * length))
    key, reference = named[0], plain[named[0]]
    if key == "rest_of":
        total = resolve(reference, key).steps
        if total <= before:
            raise UserError(
                f"{where}.rest_of is {reference!r}, which takes {total} steps, but the stages before take {before}; "
                "shorten them."
            )
        return int(total - before)
    if key == "passes_of":
        return _passes(where, plain, reference, resolve(reference, key))
    name, number = _split(where, reference)
    found = resolve(name, key)
    if number is not None and number >= len(found.stages):
        raise UserError(f"{where}.steps_of is {reference!r}, but {name!r} has {len(found.stages)} stages, counted from 0.")
    steps = found.steps if number is None else found.stages[number].steps
    # Rounded down, so that a share of a recipe's steps leaves some to the rest of it.
    return int(steps) if length is None else max(1, math.floor(steps * length + 1e-9))


def real_share(data: str, synthetic_share: float | None) -> float | None:
    """Returns the share of a stage's images that are real, in [0, 1]; None where the sizes of the sets decide it."""
    if data == "mixed":
        return None if synthetic_share is None else 1.0 - synthetic_share
    return float(data == "real")


def real_steps(stages: Sequence[Any]) -> float | None:
    """Returns how many steps' worth of real images the stages draw, None where the sizes of the sets decide it."""
    shares = [real_share(stage.data, stage.synthetic_share) for stage in stages]
    if any(share is None for share in shares):
        return None
    return sum(share * stage.steps for share, stage in zip(shares, stages, strict=True) if share is not None)


def _passes(where: str, plain: Mapping[str, Any], reference: str, found: Any) -> int:
    drawn = real_steps(found.stages)
    own = real_share(plain.get("data", "real"), plain.get("synthetic_share"))
    if drawn is None or own is None:
        which = f"recipe {reference!r}" if drawn is None else "the stage itself"
        raise UserError(
            f"{where}.passes_of: {which} draws from the union of real and synthetic images; give it a synthetic_share."
        )
    if not drawn or not own:
        which = f"recipe {reference!r}" if not drawn else "the stage itself"
        raise UserError(f"{where}.passes_of counts real images, but {which} sees none; use steps_of.")
    return max(1, round(drawn / own))


def _split(where: str, reference: Any) -> tuple[str, int | None]:
    found = re.fullmatch(r"(.+?)(?:\[(\d+)\])?", reference) if isinstance(reference, str) else None
    if found is None:
        raise UserError(f"{where}.steps_of is {reference!r}; give a recipe's name, or 'NAME[0]' for its first stage.")
    return found[1], None if found[2] is None else int(found[2])


def _of(plain: Mapping[str, Any], source: str) -> str:
    return f"the steps of {plain['steps_of']!r}" if plain.get("steps_of") is not None else source


def unknown_recipe(where: str, key: str, name: Any, known: Mapping[str, Any]) -> UserError:
    """Returns the error for a reference to a recipe that is not there."""
    return UserError(f"{where}.{key} names the unknown recipe {name!r}{nearest(str(name), known)}.")
