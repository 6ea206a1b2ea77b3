"""Recipes: lists of stages, read from a config and checked. Nothing here knows a recipe by name."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bridgejax.errors import UserError, nearest
from bridgejax.recipes import all_recipes
from bridgejax.training.lengths import LENGTH_KEYS, stage_steps, unknown_recipe

_CHOICES: dict[str, tuple[str, ...]] = {
    "data": ("real", "synthetic", "mixed"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine", "constant"),
    "loss": ("cross_entropy", "soft_target"),
    "batch_norm": ("train", "frozen"),
    "batch_statistics": ("keep", "initial"),
}
_RESETS = ("none", "head", "all")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Attributes:
      data: "real", "synthetic", or "mixed" (both).
      synthetic_set: which of the config's `synthetic_sets` its synthetic images are; "" means the config's own set.
      synthetic_share: of a mixed batch, in [0, 1]; None draws from the union, every image alike.
      synthetic_loss: of a mixed batch's loss, in [0, 1]: (1 - w) times the mean over its real images plus w times the mean over
        its synthetic ones (a batch that has only one kind is judged by that). None: every image alike.
      steps: optimiser steps, at most so many where the stage stops early. A config may state it as `steps`, as `length`
        (multiples of the steps of an ordinary stage), or against another recipe: `steps_of` (its name, or "NAME[0]" for
        its first stage, with or without a `length` to multiply by), `rest_of` (what is left of its steps after the stages
        before) or `passes_of` (as many real images as it draws).
      learning_rate: the peak. A config may state it, or a `rate_factor` that multiplies `training.learning_rate`.
      optimizer, momentum, nesterov, weight_decay: see `make_optimizer`.
      schedule: "cosine" (to 0) or "constant", after `warmup_steps` of linear rise.
      loss, label_smoothing, mixup_alpha, soft_weight, temperature: see `make_train_step`.
      trainable: what trains; see `TrainState.create`.
      reset: before the stage, "head" draws a new random head, "blocks:N" also the last N blocks, "all" the whole network,
        each as the architecture starts; "none" keeps everything.
      early_stop: looks at the validation images without a better mean per-class accuracy after which the stage ends; it then
        goes on from the best look. None: it lasts its steps.
      early_stop_looks: how many looks are spread evenly over `steps`.
      batch_norm: "train" or "frozen" during the stage; see `make_train_step`.
      batch_statistics: before the stage, "keep" the running statistics or go back to the "initial" ones of the model.
      restart_optimizer: the moments start at zero; else those of the stage before go on.
      restart_schedule: the schedule starts afresh; else it goes on, over the steps of both stages together.
      augment: random resized crops and flips.
    """

    data: str = "real"
    synthetic_set: str = ""
    synthetic_share: float | None = None
    synthetic_loss: float | None = None
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
    early_stop: int | None = None
    early_stop_looks: int = 10
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
_KEYS = (*_FIELDS, *LENGTH_KEYS, "rate_factor")
_OPTIONAL = ("synthetic_share", "synthetic_loss", "early_stop")
_COUNTS = {"steps": 1, "warmup_steps": 0, "early_stop": 1, "early_stop_looks": 1}


def recipe_from_config(
    name: str,
    recipes: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    training: Mapping[str, Any] | None = None,
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
    table = recipes if isinstance(recipes, Mapping) else {**all_recipes(), name: recipes}
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
    built: tuple[Stage, ...] = ()
    for number, stage in enumerate(listed):
        before = sum(each.steps for each in built)
        built = (*built, _stage(f"{where}[{number}]", stage, training, recipes, (*asking, name), before))
    if not (built[0].restart_optimizer and built[0].restart_schedule):
        raise UserError(
            f"{where}[0] goes on with an optimizer or schedule, but no stage comes before it; set restart_… to True."
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
    where: str, given: Any, training: dict[str, Any], recipes: Mapping[str, Any], asking: tuple[str, ...], before: int
) -> Stage:
    plain = given.to_dict() if hasattr(given, "to_dict") else given
    if not isinstance(plain, Mapping):
        raise UserError(f"{where} is {plain!r}; give a dict of stage settings.")
    for key in plain:
        if key not in _KEYS:
            raise UserError(f"{where} has the unknown key {key!r}{nearest(str(key), _KEYS)}; a stage has {', '.join(_KEYS)}.")
    values = {key: value for key, value in training.items() if key in _FIELDS and key != "steps" and value is not None}
    values.update({key: value for key, value in plain.items() if key in _FIELDS and key != "steps"})
    if plain.get("rate_factor") is not None:
        values["learning_rate"] = _scaled_rate(where, plain, values.get("learning_rate", Stage.learning_rate))

    def resolve(name: Any, key: str) -> Recipe:
        if name not in recipes:
            raise unknown_recipe(where, key, name, recipes)
        if name in asking:
            raise UserError(f"{where}.{key} goes in a circle ({' → '.join((*asking, name))}); give one of them steps.")
        return _build(name, recipes, training, asking)

    values["steps"] = stage_steps(where, plain, unit=_unit(where, plain, training), before=before, resolve=resolve)
    stage = Stage(**{key: _checked(f"{where}.{key}", key, value) for key, value in values.items()})
    if stage.synthetic_set and stage.data == "real":
        raise UserError(f"{where}.synthetic_set is {stage.synthetic_set!r}, but data is 'real'; leave one of them out.")
    for key in ("synthetic_share", "synthetic_loss"):
        if getattr(stage, key) is not None and stage.data != "mixed":
            raise UserError(f"{where}.{key} is set, but data is {stage.data!r}; set data='mixed' or leave it out.")
    if stage.reset not in ("none", "head") and stage.batch_norm == "frozen" and "batch_norm" not in plain:
        raise UserError(
            f"{where}.reset is {stage.reset!r}, but batch_norm is 'frozen' by training.batch_norm: what is new has no "
            "statistics to keep; state batch_norm='train' in the stage."
        )
    if stage.warmup_steps > stage.steps:
        # A config may shorten every stage at once; its warm-up then shortens along.
        stage = dataclasses.replace(stage, warmup_steps=stage.steps)
    return stage


def _unit(where: str, plain: Mapping[str, Any], training: dict[str, Any]) -> tuple[int, str]:
    """Returns the steps of an ordinary stage and the key that says so."""
    unit, source = Stage.steps, "the default"
    for value, named in (
        (training.get("base_steps"), "training.base_steps"),
        (plain.get("steps"), f"{where}.steps"),
        (training.get("steps"), "training.steps"),
    ):
        if value is not None:
            unit, source = _checked(named, "steps", value), named
    return unit, source


def _scaled_rate(where: str, plain: Mapping[str, Any], rate: Any) -> float:
    factor = plain["rate_factor"]
    if "learning_rate" in plain:
        raise UserError(f"{where} has rate_factor and also learning_rate; keep one.")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < math.inf:
        raise UserError(
            f"{where}.rate_factor is {factor!r}; give a number of at least 0, in multiples of training.learning_rate."
        )
    return float(_checked("training.learning_rate", "learning_rate", rate) * factor)


def reset_depth(reset: str) -> int | None:
    """Returns N of a stage's reset "blocks:N", None for another reset.

    Raises:
      UserError: `reset` is none of "none", "head", "all" and "blocks:N" with N of at least 1.
    """
    if reset in _RESETS:
        return None
    found = re.fullmatch(r"blocks:([1-9]\d*)", reset) if isinstance(reset, str) else None
    if found is None:
        raise UserError(f"{reset!r}; use one of {', '.join(_RESETS)} or 'blocks:N' for the head and the last N blocks")
    return int(found[1])


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
    if key == "reset":
        try:
            reset_depth(value)
        except UserError as error:
            raise UserError(f"{where} is {error}{nearest(str(value), _RESETS)}.") from None
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
    if value is None and key in _OPTIONAL:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UserError(f"{where} is {value!r}; give a number of at least 0.")
    if key in _COUNTS:
        if value != int(value) or value < _COUNTS[key]:
            raise UserError(f"{where} is {value!r}; give a whole number of at least {_COUNTS[key]}.")
        return int(value)
    if key in ("synthetic_share", "synthetic_loss", "label_smoothing", "soft_weight") and value > 1:
        raise UserError(f"{where} is {value!r}; give a number from 0 to 1.")
    if (key == "momentum" and value >= 1) or (key == "temperature" and value == 0):
        raise UserError(f"{where} is {value!r}; give {'a number below 1' if key == 'momentum' else 'a number above 0'}.")
    return float(value)
