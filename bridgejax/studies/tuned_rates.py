"""Rates and lengths that `bridgejax tune` chose, taken up by a study (`training.tuned`)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridgejax.config import Settings, TrainingSettings
from bridgejax.errors import UserError
from bridgejax.files import canonical_json
from bridgejax.identity import digest
from bridgejax.recipes import Recipe

TuningJson = Mapping[str, Any]  # what tuning.json holds


@dataclasses.dataclass(frozen=True)
class TuningScope:
    """What tuned rates hold for; `tuning.json` keeps it as `made_for`."""

    task: str  # its name
    class_names: tuple[str, ...]  # in their order
    images: str  # digest of all its real images
    shots: tuple[int | None, ...]  # real training images per class of the study's runs; None means all
    classifier: tuple[str, int, float | None]  # digest of the weights, image size, crop
    batch_size: int  # of training
    recipes: Mapping[str, str]  # arm → digest of its recipe but for what tuning sets

    @staticmethod
    def recipe_digests(settings: Settings) -> dict[str, str]:
        """Returns `recipes` of a config's arms."""
        # Any rate and lengths do, if they are always the same.
        training = dataclasses.replace(settings.training, learning_rate=1.0, base_steps=1000, steps=None)
        untuned = dataclasses.replace(settings, training=training)
        return {arm: digest([stage.to_dict() for stage in untuned.recipe(arm).stages]) for arm in settings.arms}

    def difference(self, then: TuningJson) -> str | None:
        """Returns in what a recorded scope does not cover this one, in words; None if it does."""
        for key, value in json.loads(canonical_json(list(dataclasses.asdict(self).items()))):
            if key == "recipes":
                changed = [arm for arm in self.recipes if self.recipes[arm] != then[key].get(arm)]
                if changed:
                    return f"another recipe of arm {changed[0]!r}"
            elif key == "shots":
                missing = [shots for shots in value if shots not in then[key]]
                if missing:
                    return f"shots {then[key]}, not {missing[0]}"
            elif then.get(key) != value:
                if key == "images":
                    return "other real images" if key in then else "real images that it does not name"
                text = f"{then.get(key)!r}, not {value!r}"
                return f"another {key.replace('_', ' ')} ({text if len(text) < 120 else 'they differ'})"
        return None


def with_candidate(training: TrainingSettings, learning_rate: float, length: float) -> TrainingSettings:
    """Returns the settings at a rate and with every stage `length` times as long."""
    steps = None if training.steps is None else max(1, round(training.steps * length))
    base_steps = max(1, round(training.base_steps * length))
    return dataclasses.replace(training, learning_rate=learning_rate, base_steps=base_steps, steps=steps)


def study_recipes(settings: Settings) -> dict[str, Recipe]:
    """Returns the recipes of a config's arms, at the rates and lengths of `training.tuned` if it is set.

    Raises:
      UserError: a recipe is wrong; or the file of `training.tuned` is missing, damaged, or lacks an arm.
    """
    training = settings.training
    if training.tuned is None:
        return {arm: settings.recipe(arm) for arm in settings.arms}
    chosen = _read_tuning(training.tuned)["chosen"]
    recipes = {}
    for arm in settings.arms:
        if arm not in chosen:
            raise UserError(
                f"training.tuned: {training.tuned} has no rates for arm {arm!r} (it has them for {', '.join(chosen)}); "
                "tune this arm too, or leave it out."
            )
        # The steps are those that were tuned, whatever this config's base_steps are.
        tuned = {key: chosen[arm][key] for key in ("learning_rate", "base_steps", "steps")}
        recipes[arm] = dataclasses.replace(settings, training=dataclasses.replace(training, **tuned)).recipe(arm)
    return recipes


def check_scope(path: str, scope: TuningScope) -> None:
    """Checks that the record of `training.tuned` was made for this scope.

    Raises:
      UserError: it was made for another task, other images, another classifier, batch size or recipe; the sentence says which.
    """
    difference = scope.difference(_read_tuning(path)["made_for"])
    if difference is not None:
        raise UserError(f"training.tuned: {path} was made for {difference}; tune for this config, or unset the key.")


def _read_tuning(path: str | Path) -> TuningJson:
    """Returns what `bridgejax tune` recorded.

    Raises:
      UserError: the file is missing or is not such a record.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"training.tuned: {path} is missing; make it with `bridgejax tune`, or unset the key.") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"training.tuned: {path} is not readable JSON ({error}); make it again with `bridgejax tune`."
        ) from error
    if not isinstance(record, dict) or not {"made_for", "chosen", "candidates"} <= record.keys():
        raise UserError(f"training.tuned: {path} was not written by `bridgejax tune`; give its tuning.json.")
    return record
