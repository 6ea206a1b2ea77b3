"""Recipes: lists of stages, read from a config and checked. Nothing here knows a recipe by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from bridgejax.errors import UserError, nearest
from bridgejax.recipes import default_recipes

_CHOICES: dict[str, tuple[str, ...]] = {
    "data": ("real", "synthetic", "mixed"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine", "constant"),
    "loss": ("cross_entropy", "soft_target"),
    "reset": ("none", "head"),
    "batch_norm": ("train", "frozen"),
    "batch_statistics": ("keep", "initial"),
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Attributes:
      data: "real", "synthetic", or "mixed" (both).
      synthetic_set: which of the config's `synthetic_sets` its synthetic images are; "" means the config's own set.
      synthetic_share: of a mixed batch, in [0, 1]; None draws from the union, every image alike.
      steps: optimiser steps. A config may state it as `steps`, as `length` (multiples of the steps of an ordinary stage), or as
        `steps_of`: the name of a recipe, for as many steps as that one takes in all.
      learning_rate: the peak.
      optimizer, momentum, nesterov, weight_decay: see `make_optimizer`.
      schedule: "cosine" (to 0) or "constant", after `warmup_steps` of linear rise.
      loss, label_smoothing, mixup_alpha, soft_weight, temperature: see `make_train_step`.
      trainable: what trains; see `TrainState.create`.
      reset: "head" draws a new random head before the stage; "none" keeps it.
      batch_norm: "train" or "frozen" during the stage; see `make_train_step`.
      batch_statistics: before the stage, "keep" the running statistics or go back to the "initial" ones of the model.
      restart_optimizer: the moments start at zero; else those of the stage before go on.
      restart_schedule: the schedule starts afresh; else it goes on, over the steps of both stages together.
      augment: random resized crops and flips.
    """

    data: str = "real"
    synthetic_set: str = ""
    synthetic_share: float | None = None
    steps: int = 200
    learning_rate: float = 0.01
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup_steps: int = 0
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    soft_weight: float = 0.5
    temperature: float = 2.0
    trainable: tuple[str, ...] = ("all",)
    reset: str = "none"
    batch_norm: str = "train"
    batch_statistics: str = "keep"
    restart_optimizer: bool = True
    restart_schedule: bool = True
    augment: bool = True


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A name and its stages."""

    name: str
    stages: tuple[Stage, ...]

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    @property
    def needs_synthetic(self) -> bool:
        """Whether any stage sees synthetic images."""
        return any(stage.data != "real" for stage in self.stages)

    @property
    def synthetic_sets(self) -> tuple[str, ...]:
        """The sets of synthetic images that its stages see, each once; "" is the config's own."""
        return tuple(dict.fromkeys(stage.synthetic_set for stage in self.stages if stage.data != "real"))

    def to_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain data, for digests and records."""
        return {"name": self.name, "stages": [dataclasses.asdict(stage) for stage in self.stages]}


_FIELDS = {field.name: field for field in dataclasses.fields(Stage)}
_KEYS = (*_FIELDS, "length", "steps_of")


def recipe_from_config(
    name: str,
    recipes: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    training: Mapping[str, Any] | None = None,
) -> Recipe:
    """Returns the recipe `name`.

    Args:
      name: as an arm names it.
      recipes: name → list of stage dicts, as `config.recipes`; or the stages of this one recipe (`steps_of` then finds the
        default recipes).
      training: as `config.training`: values for what stages leave out (those of its keys that are fields of `Stage`), and two
        lengths. `base_steps` is what a stage lasts that states no `steps`; `steps`, unless None, replaces the steps of every
        stage. Both are multiplied by a stage's `length`, and `steps_of` follows the recipe it names.

    Raises:
      UserError: an unknown recipe or key (with the nearest known one), a value of the wrong kind or out of range, no stage,
        or `steps_of` in a circle.
    """
    table = recipes if isinstance(recipes, Mapping) else {**default_recipes(), name: recipes}
    if name not in table:
        raise UserError(f"recipe {name!r} is unknown{nearest(str(name), table)}; there are {', '.join(sorted(table))}.")
    return _build(name, table, dict(training or {}), ())


def _build(name: str, recipes: Mapping[str, Any], training: dict[str, Any], asking: tuple[str, ...]) -> Recipe:
    where, stages = f"recipes.{name}", recipes[name]
    if isinstance(stages, str | Mapping) or not isinstance(stages, Iterable):
        raise UserError(f"{where} is not a list of stages; give a list of dicts, one per stage.")
    listed = list(stages)
    if not listed:
        raise UserError(f"{where} has no stage; give at least one, for instance {{'data': 'real'}}.")
    built = tuple(
        _stage(f"{where}[{number}]", stage, training, recipes, (*asking, name)) for number, stage in enumerate(listed)
    )
    if not (built[0].restart_optimizer and built[0].restart_schedule):
        raise UserError(
            f"{where}[0] goes on with an optimizer or schedule, but no stage comes before it; set restart_… to True."
        )
    for number in range(1, len(built)):
        stage, before = built[number], built[number - 1]
        if not stage.restart_optimizer and any(
            getattr(stage, key) != getattr(before, key) for key in ("optimizer", "trainable", "momentum")
        ):
            raise UserError(
                f"{where}[{number}].restart_optimizer is False, but the stage before has another optimizer, momentum or "
                "trainable; set it to True or make them agree."
            )
        if not stage.restart_schedule and stage.schedule != before.schedule:
            raise UserError(
                f"{where}[{number}].restart_schedule is False, but the stage before has another schedule; make them agree."
            )
    return Recipe(name, built)


def _stage(where: str, given: Any, training: dict[str, Any], recipes: Mapping[str, Any], asking: tuple[str, ...]) -> Stage:
    plain = given.to_dict() if hasattr(given, "to_dict") else given
    if not isinstance(plain, Mapping):
        raise UserError(f"{where} is {plain!r}; give a dict of stage settings.")
    for key in plain:
        if key not in _KEYS:
            raise UserError(f"{where} has the unknown key {key!r}{nearest(str(key), _KEYS)}; a stage has {', '.join(_KEYS)}.")
    values = {key: value for key, value in training.items() if key in _FIELDS and key != "steps" and value is not None}
    values.update({key: value for key, value in plain.items() if key not in ("steps", "length", "steps_of")})
    values["steps"] = _steps(where, plain, training, recipes, asking)
    checked = {key: _checked(f"{where}.{key}", key, value) for key, value in values.items()}
    stage = Stage(**checked)
    if stage.synthetic_set and stage.data == "real":
        raise UserError(f"{where}.synthetic_set is {stage.synthetic_set!r}, but data is 'real'; leave one of them out.")
    if stage.synthetic_share is not None and stage.data != "mixed":
        raise UserError(f"{where}.synthetic_share is set, but data is {stage.data!r}; set data='mixed' or leave the share out.")
    if stage.warmup_steps > stage.steps:
        # A config may shorten every stage at once; its warm-up then shortens along.
        stage = dataclasses.replace(stage, warmup_steps=stage.steps)
    return stage


def _steps(
    where: str, plain: Mapping[str, Any], training: dict[str, Any], recipes: Mapping[str, Any], asking: tuple[str, ...]
) -> int:
    """Returns how many optimiser steps a stage takes."""
    other, length, own = plain.get("steps_of"), plain.get("length"), plain.get("steps")
    if other is not None:
        if own is not None or length is not None:
            raise UserError(f"{where} has steps_of and also {'steps' if own is not None else 'length'}; keep one.")
        if other not in recipes:
            raise UserError(f"{where}.steps_of names the unknown recipe {other!r}{nearest(str(other), recipes)}.")
        if other in asking:
            raise UserError(f"{where}.steps_of goes in a circle ({' → '.join((*asking, other))}); give one of them steps.")
        return _build(other, recipes, training, asking).steps
    unit, source = Stage.steps, "the default"
    for value, named in (
        (training.get("base_steps"), "training.base_steps"),
        (own, f"{where}.steps"),
        (training.get("steps"), "training.steps"),
    ):
        if value is not None:
            unit, source = _checked(named, "steps", value), named
    if length is None:
        return unit
    if isinstance(length, bool) or not isinstance(length, int | float) or not math.isfinite(length) or length <= 0:
        raise UserError(f"{where}.length is {length!r}; give a number above 0, in multiples of {source}.")
    return max(1, round(unit * length))


def _checked(where: str, key: str, value: Any) -> Any:
    """Returns `value` as the field's type.

    Raises:
      UserError: it is none, or out of range.
    """
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise UserError(f"{where} is {value!r}; use one of {', '.join(_CHOICES[key])}{nearest(str(value), _CHOICES[key])}.")
        return value
    if key == "synthetic_set":
        if not isinstance(value, str):
            raise UserError(f"{where} is {value!r}; give the name of one of the config's synthetic_sets.")
        return value
    if key == "trainable":
        patterns = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else ()
        if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
            raise UserError(f"{where} is {value!r}; give 'all', 'head' or a tuple of regular expressions.")
        return patterns
    default = _FIELDS[key].default
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"{where} is {value!r}; give True or False.")
        return value
    if value is None and key == "synthetic_share":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UserError(f"{where} is {value!r}; give a number of at least 0.")
    if key in ("steps", "warmup_steps"):
        if value != int(value) or (key == "steps" and value < 1):
            raise UserError(f"{where} is {value!r}; give a whole number of at least {int(key == 'steps')}.")
        return int(value)
    if key in ("synthetic_share", "label_smoothing", "soft_weight") and value > 1:
        raise UserError(f"{where} is {value!r}; give a number from 0 to 1.")
    if (key == "momentum" and value >= 1) or (key == "temperature" and value == 0):
        raise UserError(f"{where} is {value!r}; give {'a number below 1' if key == 'momentum' else 'a number above 0'}.")
    return float(value)
