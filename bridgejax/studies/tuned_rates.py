"""Rates and lengths that `bridgejax tune` chose, taken up by a study (`training.tuned`)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridgejax.errors import UserError
from bridgejax.files import canonical_json
from bridgejax.identity import digest
from bridgejax.recipes import Recipe, recipe_from_config

Plain = Mapping[str, Any]  # a config or a group of its keys, as plain data
# Stands in for what tuning sets in the digest of a recipe.
_UNTUNED = {"learning_rate": 1.0, "base_steps": 1000, "steps": None}


@dataclasses.dataclass(frozen=True)
class TuningScope:
    """What tuned rates hold for; `tuning.json` keeps it as `made_for`.

    Attributes:
      task: its name.
      class_names: in their order.
      images: digest of all its real images.
      shots: real training images per class of the study's runs; None means all.
      classifier: digest of the weights, image size, crop.
      batch_size: of training.
      recipes: arm → digest of its recipe but for what tuning sets.
    """

    task: str
    class_names: tuple[str, ...]
    images: str
    shots: tuple[int | None, ...]
    classifier: tuple[str, int, float | None]
    batch_size: int
    recipes: Mapping[str, str]

    @staticmethod
    def recipe_digests(plain: Plain) -> dict[str, str]:
        """Returns `recipes` of a config's arms."""
        training = {**plain["training"], **_UNTUNED}
        built = {arm: recipe_from_config(arm, plain["recipes"], training) for arm in plain["arms"]}
        return {arm: digest([stage.to_dict() for stage in recipe.stages]) for arm, recipe in built.items()}

    def difference(self, then: Plain) -> str | None:
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


def with_candidate(training: Plain, learning_rate: float, length: float) -> dict[str, Any]:
    """Returns `config.training` at a rate and with every stage `length` times as long."""
    changed = {**training, "learning_rate": learning_rate}
    for key in ("base_steps", "steps"):
        if training.get(key) is not None:
            changed[key] = max(1, round(training[key] * length))
    return changed


def study_recipes(plain: Plain) -> dict[str, Recipe]:
    """Returns the recipes of a config's arms, at the rates and lengths of `training.tuned` if it is set.

    Args:
      plain: the config as plain data.

    Raises:
      UserError: a recipe is wrong; or the file of `training.tuned` is missing, damaged, or lacks an arm.
    """
    training, arms = plain["training"], plain["arms"]
    if training.get("tuned") is None:
        return {arm: recipe_from_config(arm, plain["recipes"], training) for arm in arms}
    chosen = _read_tuning(training["tuned"])["chosen"]
    for arm in arms:
        if arm not in chosen:
            raise UserError(
                f"training.tuned: {training['tuned']} has no rates for arm {arm!r} (it has them for {', '.join(chosen)}); "
                "tune this arm too, or leave it out."
            )
    # The steps are those that were tuned, whatever this config's base_steps are.
    return {
        arm: recipe_from_config(arm, plain["recipes"], {**training, **{key: chosen[arm][key] for key in _UNTUNED}})
        for arm in arms
    }


def check_scope(path: str, scope: TuningScope) -> None:
    """Checks that the record of `training.tuned` was made for this scope.

    Raises:
      UserError: it was made for another task, other images, another classifier, batch size or recipe; the sentence says which.
    """
    difference = scope.difference(_read_tuning(path)["made_for"])
    if difference is not None:
        raise UserError(f"training.tuned: {path} was made for {difference}; tune for this config, or unset the key.")


def _read_tuning(path: str | Path) -> Plain:
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
