"""The training of a study's runs: one by one, or the seeds of an arm at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax

from bridgejax.data import Examples
from bridgejax.errors import Diverged
from bridgejax.identity import derive_seed
from bridgejax.progress import stage_heading
from bridgejax.studies.run_results import CHECKPOINTS, EVENTS
from bridgejax.studies.study_plan import StudyPlan, StudyRun, initial_classifier, run_options
from bridgejax.training import RunResult


class StudyRunDiverged(Diverged):
    """A run of a study diverged.

    Attributes:
      run: which.
    """

    def __init__(self, error: Diverged, run: StudyRun) -> None:
        super().__init__(error.message, run.seed)
        self.run = run


def group_runs(runs: Iterable[StudyRun], size: int | str) -> Iterator[list[StudyRun]]:
    """Yields the runs in their order, together those that differ in their seed alone: at most `size` each, "auto" means all."""
    for _, alike in itertools.groupby(runs, key=lambda run: (run.arm, run.shots, run.per_class)):
        seeds = list(alike)
        step = len(seeds) if isinstance(size, str) else size
        for start in range(0, len(seeds), step):
            yield seeds[start : start + step]


def group_size(plan: StudyPlan) -> int | str:
    """Returns `study.parallel_seeds`; 1 on several devices or processes, where each run is spread over the devices."""
    size = plan.settings.study.parallel_seeds
    if size != 1 and (plan.mesh.size > 1 or jax.process_count() > 1):
        stage_heading("  study.parallel_seeds needs a single device: the runs are trained one by one over all devices")
        return 1
    return size


def train_seeds(
    plan: StudyPlan, runs: Sequence[StudyRun], folders: Sequence[Path], images: Sequence[Mapping[str, Examples]]
) -> list[RunResult]:
    """Trains runs of one arm and returns the result of each; a stopped one goes on from its checkpoints.

    Args:
      plan: the study.
      runs: of one arm, shot count and volume.
      folders: each run's own, for its checkpoints.
      images: each run's synthetic images by the name of their set.

    Raises:
      UserError: as `train_recipe`.
      StudyRunDiverged: one of them diverged; it is named.
    """
    from bridgejax.training import RunInputs, train_group, train_recipe

    settings = plan.settings
    recipe = plan.recipes[runs[0].arm]
    options, teachers = run_options(settings, plan.mesh, plan.eval_split), plan.teachers(recipe)
    others = plan.other_classes(recipe)
    members = []
    for run, folder, synthetic in zip(runs, folders, images, strict=True):
        seed = derive_seed(settings.seed, "train", run.seed)
        model = initial_classifier(settings, plan.class_names, seed)
        events = folder / EVENTS if settings.training.tensorboard else None
        members.append(
            RunInputs(model, plan.task(run.shots, run.seed), seed, synthetic, folder / CHECKPOINTS, teachers, events, others)
        )
    try:
        if len(members) > 1:
            return train_group(recipe, members, options)
        return [train_recipe(recipe, members[0], options)]
    except Diverged as error:
        raise StudyRunDiverged(error, runs[[member.seed for member in members].index(error.seed)]) from error
