"""How long a stage lasts: in steps, in multiples of an ordinary stage, or measured against another recipe."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence

from bridgejax.errors import UserError, choices
from bridgejax.fields import keys_of, setting
from bridgejax.recipes.stage import Recipe, Stage


@dataclasses.dataclass(frozen=True)
class StageLength:
    """What a config may state of a stage in place of `steps` and `learning_rate`."""

    length: float | None = setting(None, "Multiples of training.base_steps, or of what steps_of names.", above=0)
    steps_of: str | None = setting(
        None, "As many steps as another recipe takes in all, or as one of its stages ('bridged[0]'), times length if given."
    )
    rest_of: str | None = setting(None, "What is left of another recipe's steps after this recipe's earlier stages.")
    passes_of: str | None = setting(None, "As many real images as another recipe draws.")
    lr_scale: float | None = setting(None, "A multiple of training.learning_rate, in place of learning_rate.", at_least=0)


KEYS = keys_of(StageLength)
LENGTH_KEYS = tuple(KEYS)[:4]
# The keys that measure a stage against another recipe; a stage has at most one of them.
_REFERENCES = ("steps_of", "rest_of", "passes_of")


def stage_steps(
    where: str, stated: Mapping[str, object], *, unit: int, before: int, resolve: Callable[[str, str], Recipe]
) -> int:
    """Returns how many optimiser steps a stage takes, at least 1.

    Args:
      where: the stage, for messages.
      stated: the stage as the config states it; see `StageLength`. Without those keys, a stage takes the unit.
      unit: steps of an ordinary stage.
      before: steps of the recipe's stages before this one.
      resolve: (recipe name, key that names it) → the built `Recipe`.

    Raises:
      UserError: two of the keys, a length that is not above 0, an unknown recipe or stage, or passes without real images.
    """
    named = [key for key in _REFERENCES if stated.get(key) is not None]
    length = stated.get("length")
    if len(named) > 1 or (named and stated.get("steps") is not None):
        raise UserError(f"{where} has {named[0]} and also {named[1] if len(named) > 1 else 'steps'}; keep one.")
    factor = KEYS["length"].checked(length, f"{where}.length")
    if factor is not None and named and named[0] != "steps_of":
        raise UserError(f"{where} has {named[0]} and also length; keep one.")
    if not named:
        return unit if factor is None else max(1, round(unit * factor))
    key, reference = named[0], stated[named[0]]
    if not isinstance(reference, str):
        raise UserError(f"{where}.{key} is {reference!r}; give a recipe's name, or 'NAME[0]' for its first stage.")
    if key == "rest_of":
        total = resolve(reference, key).steps
        if total <= before:
            raise UserError(
                f"{where}.rest_of is {reference!r}, which takes {total} steps, but the stages before take {before}; "
                "shorten them."
            )
        return total - before
    if key == "passes_of":
        return _passes(where, stated, reference, resolve(reference, key))
    name, number = _split(reference)
    recipe = resolve(name, key)
    if number is not None and number >= len(recipe.stages):
        raise UserError(f"{where}.steps_of is {reference!r}, but {name!r} has {len(recipe.stages)} stages, counted from 0.")
    steps = recipe.steps if number is None else recipe.stages[number].steps
    # Rounded down, so that a share of a recipe's steps leaves some to the rest of it.
    return steps if factor is None else max(1, math.floor(steps * factor + 1e-9))


def _real_share(data: object, synthetic_share: float | None) -> float | None:
    """Returns the share of a stage's images that are real, in [0, 1]; None where the sizes of the sets decide it."""
    if data == "mixed":
        return None if synthetic_share is None else 1.0 - synthetic_share
    return float(data == "real")


def _real_steps(stages: Sequence[Stage]) -> float | None:
    """Returns how many steps' worth of real images the stages draw, None where the sizes of the sets decide it."""
    total = 0.0
    for stage in stages:
        share = _real_share(stage.data, stage.synthetic_share)
        if share is None:
            return None
        total += share * stage.steps
    return total


def _passes(where: str, stated: Mapping[str, object], reference: str, recipe: Recipe) -> int:
    if stated.get("batch_size") is not None or any(stage.batch_size is not None for stage in recipe.stages):
        raise UserError(f"{where}.passes_of counts steps of one batch size, but a stage states its own; use steps_of.")
    drawn = _real_steps(recipe.stages)
    share = keys_of(Stage)["synthetic_share"].checked(stated.get("synthetic_share"), f"{where}.synthetic_share")
    own = _real_share(stated.get("data", "real"), share)
    if drawn is None or own is None:
        which = f"recipe {reference!r}" if drawn is None else "the stage itself"
        raise UserError(
            f"{where}.passes_of: {which} draws from the union of real and synthetic images; give it a synthetic_share."
        )
    if not drawn or not own:
        which = f"recipe {reference!r}" if not drawn else "the stage itself"
        raise UserError(f"{where}.passes_of counts real images, but {which} sees none; use steps_of.")
    return max(1, round(drawn / own))


def _split(reference: str) -> tuple[str, int | None]:
    name, bracket, number = reference.removesuffix("]").rpartition("[")
    indexed = bool(bracket) and reference.endswith("]") and re.fullmatch(r"\d+", number) is not None
    return (name, int(number)) if indexed else (reference, None)


def unknown_recipe(where: str, key: str, name: object, known: Mapping[str, object]) -> UserError:
    """Returns the error for a reference to a recipe that is not there."""
    return UserError(f"{where}.{key} names {name!r}, which is not a recipe in this config; {choices(name, known)}")
