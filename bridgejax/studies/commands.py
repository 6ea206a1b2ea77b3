"""What the commands `run`, `study`, `generate`, `invert` and `train` do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bridgejax.config import LEARNED_MODES, set_config
from bridgejax.errors import UserError, nearest
from bridgejax.files import TEMPORARY_PREFIX
from bridgejax.progress import stage_heading
from bridgejax.runtime import is_first
from bridgejax.studies.example_images import EXAMPLES_FILE, write_examples
from bridgejax.studies.execution import (
    CLASSIFIER,
    check_workdir,
    generate_sets,
    load_result,
    open_workdir,
    train_pending,
    train_runs,
)
from bridgejax.studies.run_results import RESULTS_FILE, RUNS_FOLDER, update_results, write_results
from bridgejax.studies.set_comparison import comparison_is_due, write_comparison
from bridgejax.studies.study_plan import StudyPlan, plan_study
from bridgejax.studies.study_sets import plan_set

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def with_values(config: ConfigDict, values: Mapping[str, object]) -> ConfigDict:
    """Returns a copy of a config with other values, {"group.key": value}."""
    changed = config.copy_and_resolve_references()
    for name, value in values.items():
        group, _, key = name.rpartition(".")
        keys = changed[group] if group else changed
        with keys.unlocked(), keys.ignore_type():
            keys[key] = value
    return changed


def run_study(config: ConfigDict, workdir: Path) -> Path:
    """Generates and trains every arm with every seed; continues what an earlier call began.

    Args:
      config: a checked config (`bridgejax.config.load_config`).
      workdir: the folder to work in.

    Returns:
      The path of results.jsonl; `bridgejax.report` makes the report of what the workdir holds.
    """
    check_workdir(workdir, config)
    plan = plan_study(config)
    with open_workdir(workdir, config):
        generate_sets(plan, workdir, plan.runs)
        trainings = plan.trainings()
        pending = [run for run in trainings if load_result(plan, workdir, run) is None]
        if pending:
            scale = f"{len(config.arms)} arms, {config.study.seeds} seeds"
            stage_heading(f"train: {len(pending)} of {len(trainings)} runs ({scale})")
            train_pending(plan, workdir, pending)
        if is_first():
            _write_results(plan, workdir)
    return workdir / RESULTS_FILE


def _write_results(plan: StudyPlan, workdir: Path) -> None:
    """Writes the results of every run, and what the report shows beside them."""
    results = [load_result(plan, workdir, run) for run in plan.runs]
    changed = write_results(workdir, [result for result in results if result is not None])
    if changed or not (workdir / EXAMPLES_FILE).is_file() or comparison_is_due(plan, workdir):
        write_examples(plan, workdir)
        write_comparison(plan, workdir)


def generate(config: ConfigDict, workdir: Path) -> Path:
    """Makes the synthetic sets of the config's arms, or what is missing or damaged of them; returns the first one's folder."""
    check_workdir(workdir, config)
    plan = plan_study(config, trains=False)
    if not plan.sets:
        raise UserError("none of the config's arms uses synthetic images; name one that does in arms, for instance 'bridged'.")
    with open_workdir(workdir, config):
        generate_sets(plan, workdir, plan.runs)
    first = plan.runs[0]
    return workdir / next(iter(plan.sets.values())).folder(first.shots, first.seed)


def train(config: ConfigDict, workdir: Path, recipe: str | None = None, seed: int = 0) -> Path:
    """Trains one recipe with one seed (generating first if it needs images) and keeps its trained classifier.

    Returns:
      The folder of the run: `result.json` and `classifier/`, which `load_classifier` reads.
    """
    from bridgejax.models import save_classifier
    from bridgejax.models.classifier import Classifier

    name = recipe or config.arms[0]
    if name not in config.recipes:
        raise UserError(
            f"--recipe {name!r} is not a recipe in this config{nearest(name, config.recipes)} ({', '.join(config.recipes)})."
        )
    _check_seed(seed)
    config = with_values(config, {"arms": (name,), "study.seeds": max(config.study.seeds, seed + 1)})
    check_workdir(workdir, config)
    plan = plan_study(config)
    run = next(candidate for candidate in plan.trainings() if candidate.seed == seed)
    folder = workdir / RUNS_FOLDER / run.folder
    with open_workdir(workdir, config):
        generate_sets(plan, workdir, [run])
        if load_result(plan, workdir, run) is None or not (folder / CLASSIFIER).is_dir():
            stage_heading(f"train: {name}, seed {seed}")
            for _, result in train_runs(plan, workdir, [run]):
                if is_first():
                    aside = folder / f"{TEMPORARY_PREFIX}{CLASSIFIER}"
                    shutil.rmtree(aside, ignore_errors=True)
                    save_classifier(cast(Classifier, result.state.model), aside)
                    aside.rename(folder / CLASSIFIER)  # whole or absent
        if is_first():
            lines = [load_result(plan, workdir, each) for each in plan.runs if plan.trained(each) == run]
            update_results(workdir, [line for line in lines if line is not None])
    return folder


def invert(config: ConfigDict, workdir: Path, seed: int = 0) -> Path:
    """Learns the config's tokens from the shots of one seed (for every count of shots that the study has).

    Args:
      config: a checked config; `inversion.mode` None is taken as "dataset" where no synthetic set learns a token.
      workdir: the folder to work in.
      seed: of the study.

    Returns:
      The folder with the learned tokens.
    """
    _check_seed(seed)
    mode = config.inversion.mode
    if mode is not None and mode not in LEARNED_MODES:
        raise UserError(f"inversion.mode={mode!r} has no new token, so nothing is learned; choose 'dataset' or 'class'.")
    named = any(set_config(config, name).inversion.mode in LEARNED_MODES for name in config.synthetic_sets)
    changes = {"inversion.mode": mode if mode or named else "dataset", "study.seeds": max(config.study.seeds, seed + 1)}
    config = with_values(config, changes)
    check_workdir(workdir, config)
    plan = plan_study(config, load_generators=False)
    learning = [study_set for study_set in plan.sets.values() if study_set.learns]
    if not learning:
        learning = [plan_set(config, "", plan.class_names, plan.generation_mesh)]
    shots = dict.fromkeys(run.shots for run in plan.runs)
    learners = [each.learner(workdir, plan.task(count, seed), count, seed) for each in learning for count in shots]
    with open_workdir(workdir, config):
        for learner in learners:
            learner.learn()
    return learners[0].folder


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UserError(f"--seed is {seed}; it should be a whole number of at least 0.")
