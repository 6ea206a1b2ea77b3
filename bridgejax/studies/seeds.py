"""The training runs of a study: one by one, or the seeds of an arm at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from bridgejax.errors import Diverged
from bridgejax.identity import derive_seed
from bridgejax.progress import stage_heading


def groups(study: Any, runs: list[Any]) -> Iterator[list[Any]]:
    """Yields the runs in their order, together those that differ in their seed alone, at most `study.parallel_seeds` each.

    On several devices or processes every run is its own group: there a run is spread over the devices.
    """
    size = study.config.study.parallel_seeds
    if size != 1 and ((study.mesh is not None and study.mesh.size > 1) or jax.process_count() > 1):
        stage_heading("  study.parallel_seeds is for one device: the runs are trained one by one over all of them")
        size = 1
    for _, alike in itertools.groupby(runs, key=lambda one: (one.arm, one.shots, one.per_class)):
        listed = list(alike)
        step = len(listed) if size == "auto" else size
        for start in range(0, len(listed), step):
            yield listed[start : start + step]


def train_group(study: Any, group: list[Any], folders: list[Path], images: list[dict[str, Any]]) -> list[Any]:
    """Trains runs of one arm and returns a `RunResult` for each; a stopped one goes on from its checkpoints.

    Args:
      study: the study.
      group: its runs, of one arm, shot count and volume.
      folders: each run's own, for its checkpoints.
      images: each run's synthetic examples by the name of their set.

    Raises:
      UserError: as `train_recipe`.
      Diverged: one of them diverged; it is named, by the study's seed.
    """
    from bridgejax.models import load_classifier
    from bridgejax.training.loop import train_recipe
    from bridgejax.training.parallel import Lane, train_together

    config = study.config
    recipe = study.recipes[group[0].arm]
    settings: dict[str, Any] = {
        "batch_size": config.training.batch_size,
        "eval_batch_size": config.training.eval_batch_size,
        "image_size": config.classifier.image_size,
        "crop": config.classifier.crop,
        "evaluations": config.training.evaluations,
        "checkpoint_seconds": config.training.checkpoint_seconds,
        "keep_final": False,
        "mesh": study.mesh,
        "dtype": config.training.dtype,
        "remat": config.training.remat,
    }
    lanes = []
    for one, folder, sets in zip(group, folders, images, strict=True):
        task = study.task(one.shots, one.seed)
        seed = derive_seed(config.seed, "train", one.seed)
        model = load_classifier(config.classifier.weights, num_classes=len(task.class_names), seed=seed)
        lanes.append(Lane(model, task, seed, sets, folder / "checkpoints"))
    try:
        if len(lanes) > 1:
            return train_together(recipe, lanes, **settings)
        lane = lanes[0]
        return [
            train_recipe(
                recipe,
                lane.model,
                task=lane.task,
                synthetic=lane.synthetic,
                seed=lane.seed,
                directory=lane.directory,
                **settings,
            )
        ]
    except Diverged as error:
        one = group[[lane.seed for lane in lanes].index(error.seed)]
        raise Diverged(error.told, one.seed, one) from error
