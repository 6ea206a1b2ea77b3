"""Rates and lengths that `bridgejax tune` chose, taken up by a study (`training.tuned`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridgejax.errors import UserError
from bridgejax.identity import digest
from bridgejax.training.recipes import Recipe, recipe_from_config

# In the digest of a recipe that is told apart by everything but what tuning sets.
_UNTUNED = {"learning_rate": 1.0, "base_steps": 1000, "steps": None}


def with_candidate(training: Mapping[str, Any], learning_rate: float, length: float) -> dict[str, Any]:
    """Returns `config.training` at a rate and with every stage `length` times as long."""
    changed = {**training, "learning_rate": learning_rate}
    for key in ("base_steps", "steps"):
        if training.get(key) is not None:
            changed[key] = max(1, round(training[key] * length))
    return changed


def study_recipes(plain: Mapping[str, Any]) -> dict[str, Recipe]:
    """Returns the recipes of a config's arms, at the rates and lengths of `training.tuned` if it is set.

    Args:
      plain: the config as plain data.

    Raises:
      UserError: a recipe is wrong; or the file of `training.tuned` is missing, damaged, or lacks an arm.
    """
    training, arms = plain["training"], plain["arms"]
    if training.get("tuned") is None:
        return {arm: recipe_from_config(arm, plain["recipes"], training) for arm in arms}
    chosen = read_tuned(training["tuned"])["chosen"]
    for arm in arms:
        if arm not in chosen:
            raise UserError(
                f"training.tuned: {training['tuned']} has nothing for arm {arm!r} (it has {', '.join(chosen)}); "
                "tune it too, or leave the arm out."
            )
    # The steps are those that were tuned, whatever this config's base_steps are.
    return {
        arm: recipe_from_config(arm, plain["recipes"], {**training, **{key: chosen[arm][key] for key in _UNTUNED}})
        for arm in arms
    }


def read_tuned(path: str | Path) -> dict[str, Any]:
    """Returns what `bridgejax tune` recorded.

    Raises:
      UserError: the file is missing or is no such record.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"training.tuned: {path} is missing; make it with `bridgejax tune`, or unset the key.") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"training.tuned: {path} is not readable JSON ({error}); make it again with `bridgejax tune`."
        ) from error
    if not isinstance(found, dict) or not {"made_for", "chosen", "candidates"} <= found.keys():
        raise UserError(f"training.tuned: {path} is no record of `bridgejax tune`; give its tuning.json.")
    return found


def made_for(study: Any) -> dict[str, Any]:
    """Returns what a tuning holds for: the task, its images, the classifier, each arm's recipe but for what is tuned."""
    from bridgejax.data.tasks import pool_digest

    config, plain = study.config, study.plain
    task = config.task
    training = {**plain["training"], **_UNTUNED}
    return {
        "task": study.task(study.runs[0].shots, 0).name,
        "class_names": list(study.class_names),
        "images": pool_digest(task.source, class_names=tuple(task.class_names) or None, data_dir=task.data_dir),
        "shots": sorted({one.shots for one in study.runs}, key=str),
        "classifier": [study.classifier_digest, config.classifier.image_size, config.classifier.crop],
        "batch_size": config.training.batch_size,
        "recipes": {arm: digest(_untuned(arm, plain["recipes"], training)) for arm in plain["arms"]},
    }


def check_tuned(study: Any) -> None:
    """Checks that the record of `training.tuned` was made for this study.

    Raises:
      UserError: it was made for another task, other images, another classifier, batch size or recipe; the sentence says which.
    """
    path = study.plain["training"].get("tuned")
    if path is None:
        return
    then, now = read_tuned(path)["made_for"], made_for(study)
    for key, value in now.items():
        if key == "recipes":
            changed = [arm for arm in value if value[arm] != then["recipes"].get(arm)]
            told = f"another recipe of arm {changed[0]!r}" if changed else None
        elif key == "shots":
            missing = [shots for shots in value if shots not in then["shots"]]
            told = f"shots {then['shots']}, not {missing[0]}" if missing else None
        elif then.get(key) == value:
            told = None
        elif key == "images":
            told = "other real images" if key in then else "real images that it does not name"
        else:
            told = f"another {key.replace('_', ' ')} ({_brief(then.get(key), value)})"
        if told:
            raise UserError(f"training.tuned: {path} was made for {told}; tune for this config, or unset the key.")


def _brief(then: Any, now: Any) -> str:
    text = f"{then!r}, not {now!r}"
    return text if len(text) < 120 else "they differ"


def _untuned(arm: str, recipes: Mapping[str, Any], training: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(stage) for stage in recipe_from_config(arm, recipes, training).to_dict()["stages"]]
