"""Recipes read from a config and checked. Nothing here knows a recipe by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bridgejax.errors import UserError, choices
from bridgejax.fields import keys_of
from bridgejax.recipes.lengths import KEYS as LENGTHS
from bridgejax.recipes.lengths import stage_steps, unknown_recipe
from bridgejax.recipes.library import all_recipes
from bridgejax.recipes.stage import Recipe, Stage

if TYPE_CHECKING:
    from ml_collections import ConfigDict

_FIELDS = keys_of(Stage)
_OWN = ("steps", "batch_size")  # fields whose value, where a stage states none, does not come from the config's training
STAGE_KEYS = {**_FIELDS, **LENGTHS}  # what a config may state of a stage
_RENAMED = {"rate_factor": "lr_scale", "early_stop_looks": "early_stop_checks"}

# Name → list of stages as a config states them, or the stages of one recipe.
Stages = Iterable[Mapping[str, object]]


def recipe_from_config(
    name: str, recipes: Mapping[str, Any] | ConfigDict | Stages, training: Mapping[str, Any] | ConfigDict | None = None
) -> Recipe:
    """Returns the recipe `name`.

    Args:
      name: as an arm names it.
      recipes: name → list of stage dicts, as `config.recipes`; or the stages of this one recipe (`steps_of` then finds those of
        `bridgejax.recipes`).
      training: as `config.training`: values for what stages leave out (those of its keys that are fields of `Stage`), and two
        lengths. `base_steps` is what a stage lasts that states no `steps`; `steps`, unless None, replaces the steps of every
        stage. Both are multiplied by a stage's `length`, and what is measured against another recipe follows that one.

    Raises:
      UserError: an unknown recipe or key (with the nearest known one), a value of the wrong kind or out of range, no stage,
        or `steps_of` in a circle.
    """
    recipes, training = _plain(recipes), _plain(training)
    table = recipes if isinstance(recipes, Mapping) else {**all_recipes(), name: recipes}
    if name not in table:
        raise UserError(f"{name!r} is not a recipe in this config; {choices(name, table)}")
    return _build(name, table, dict(training or {}), ())


def _plain(value: Any) -> Any:
    """Returns a ConfigDict, which is no Mapping, as a dict; others as they are."""
    return value.to_dict() if hasattr(value, "to_dict") else value


def _build(name: str, recipes: Mapping[str, object], training: dict[str, object], asking: tuple[str, ...]) -> Recipe:
    where, stages = f"recipes.{name}", recipes[name]
    if isinstance(stages, str | Mapping) or not isinstance(stages, Iterable):
        raise UserError(f"{where} is not a list of stages; give a list of dicts, one per stage.")
    listed = list(stages)
    built: tuple[Stage, ...] = ()
    for number, stage in enumerate(listed):
        before = sum(each.steps for each in built)
        built = (*built, _stage(f"{where}[{number}]", stage, training, recipes, (*asking, name), before))
    if built and not (built[0].restart_optimizer and built[0].restart_schedule):
        raise UserError(
            f"{where}[0] goes on with an optimizer or schedule, but no stage comes before it; set restart_… to True."
        )
    for number, stage in enumerate(built):
        made = next((former.head for former in built[:number] if former.head != "keep"), None)
        if made is not None and (stage.reset != "none" or stage.head != "keep"):
            raise UserError(f"{where}[{number}] changes the head after a stage with head={made!r}; make that the last change.")
    for number, stage in enumerate(built):
        if stage.contrasts and (number + 1 == len(built) or built[number + 1].reset == "none"):
            raise UserError(
                f"{where}[{number}].loss is {stage.loss!r}, which leaves no head for classes; let a stage with reset='head' "
                "follow."
            )
    for number in range(1, len(built)):
        stage, former = built[number], built[number - 1]
        if not stage.restart_optimizer and any(
            getattr(stage, key) != getattr(former, key) for key in ("optimizer", "trainable", "momentum")
        ):
            raise UserError(
                f"{where}[{number}].restart_optimizer is False, but the stage before has another optimizer, momentum or "
                "trainable; set it to True or make them agree."
            )
        if not stage.restart_schedule and stage.schedule != former.schedule:
            raise UserError(
                f"{where}[{number}].restart_schedule is False, but the stage before has another schedule; make them agree."
            )
    return Recipe(name, built)


def _stage(
    where: str,
    given: object,
    training: Mapping[str, object],
    recipes: Mapping[str, object],
    asking: tuple[str, ...],
    before: int,
) -> Stage:
    stated = _plain(given)
    if not isinstance(stated, Mapping):
        raise UserError(f"{where} is {stated!r}; give a dict of stage settings.")
    for key in stated:
        if key in _RENAMED:
            raise UserError(f"{where} has {key!r}, which is now called {_RENAMED[key]!r}; rename it.")
        if key not in STAGE_KEYS:
            raise UserError(f"{where} has the unknown key {key!r}; {choices(key, STAGE_KEYS)}")
    values = {key: value for key, value in training.items() if key in _FIELDS and key not in _OWN and value is not None}
    values.update({key: value for key, value in stated.items() if key in _FIELDS and key != "steps"})
    if values.get("data", Stage.data) == "real" and "synthetic_side" not in stated:
        values.pop("synthetic_side", None)  # which says nothing about real images
    if stated.get("lr_scale") is not None:
        values["learning_rate"] = _scaled_rate(where, stated, values.get("learning_rate", Stage.learning_rate))

    def resolve(name: str, key: str) -> Recipe:
        if name not in recipes:
            raise unknown_recipe(where, key, name, recipes)
        if name in asking:
            raise UserError(f"{where}.{key} goes in a circle ({' → '.join((*asking, name))}); give one of them steps.")
        return _build(name, recipes, dict(training), asking)

    values["steps"] = stage_steps(where, stated, unit=_unit(where, stated, training), before=before, resolve=resolve)
    for key in ("trainable", "synthetic_filter"):
        if isinstance(values.get(key), str):
            values[key] = (values[key],)
    stage = Stage(**{key: _FIELDS[key].checked(value, f"{where}.{key}") for key, value in values.items()})
    if not stage.trainable:
        raise UserError(f"{where}.trainable is empty; give 'all', 'head' or a tuple of regular expressions.")
    if stage.synthetic_set and stage.data == "real":
        raise UserError(f"{where}.synthetic_set is {stage.synthetic_set!r}, but data is 'real'; leave one of them out.")
    for key in ("synthetic_filter", "synthetic_side"):
        if getattr(stage, key) and stage.data == "real":
            raise UserError(f"{where}.{key} is set, but data is 'real'; leave one of them out.")
    for key in ("synthetic_share", "synthetic_loss"):
        if getattr(stage, key) is not None and stage.data != "mixed":
            raise UserError(f"{where}.{key} is set, but data is {stage.data!r}; set data='mixed' or leave it out.")
    if stage.repeats > 1 and not stage.augment:
        raise UserError(f"{where}.repeats is {stage.repeats}, but nothing is augmented; set augment=True or leave it out.")
    if stage.soft_images != "all" and (stage.data != "mixed" or stage.loss != "soft_target"):
        raise UserError(
            f"{where}.soft_images is {stage.soft_images!r}, but data is {stage.data!r} and loss {stage.loss!r}; set "
            "data='mixed' and loss='soft_target', or leave it out."
        )
    if stage.reset not in ("none", "head", "initial_head") and stage.batch_norm == "frozen" and "batch_norm" not in stated:
        raise UserError(
            f"{where}.reset is {stage.reset!r}, but training.batch_norm is 'frozen', and new blocks have no running statistics "
            "to keep; state batch_norm='train' in the stage."
        )
    unfit = {"head": "keep", "mixup_alpha": 0.0, "early_stop": None, "synthetic_loss": None, "augment": True, "repeats": 1}
    unfit |= {"cutmix_alpha": 0.0, "erasing": 0.0, "randaugment": 0.0, "stochastic_depth": 0.0}
    for key, value in unfit.items() if stage.contrasts else ():
        if getattr(stage, key) != value:
            stated = getattr(stage, key)
            raise UserError(f"{where}.{key} is {stated!r}, which does not go with loss={stage.loss!r}; leave it out.")
    if stage.warmup_steps > stage.steps:
        # A config may shorten every stage at once; its warm-up then shortens along.
        stage = dataclasses.replace(stage, warmup_steps=stage.steps)
    return stage


def _unit(where: str, stated: Mapping[str, object], training: Mapping[str, object]) -> int:
    """Returns the steps of a stage that states no length."""
    unit = Stage.steps
    for value, named in (
        (training.get("base_steps"), "training.base_steps"),
        (stated.get("steps"), f"{where}.steps"),
        (training.get("steps"), "training.steps"),
    ):
        if value is not None:
            unit = _FIELDS["steps"].checked(value, named)
    return unit


def _scaled_rate(where: str, stated: Mapping[str, object], rate: object) -> float:
    if "learning_rate" in stated:
        raise UserError(f"{where} has lr_scale and also learning_rate; keep one.")
    factor: float = LENGTHS["lr_scale"].checked(stated["lr_scale"], f"{where}.lr_scale")
    return float(_FIELDS["learning_rate"].checked(rate, "training.learning_rate") * factor)
