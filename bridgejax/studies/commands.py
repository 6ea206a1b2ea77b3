"""What the commands `run`, `study`, `generate`, `invert` and `train` do."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import cast

from bridgejax.config import LEARNED_MODES, Settings
from bridgejax.data.set_index import SIDECARS
from bridgejax.data.tensorflow import begin_import
from bridgejax.errors import DamageFound, UserError, choices
from bridgejax.files import TEMPORARY_PREFIX
from bridgejax.progress import stage_heading
from bridgejax.runtime import is_first
from bridgejax.studies.example_images import EXAMPLES_FILE, write_examples
from bridgejax.studies.execution import (
    CLASSIFIER,
    CarryOut,
    check_workdir,
    generate_sets,
    load_result,
    open_workdir,
    train_pending,
    train_runs,
)
from bridgejax.studies.filtering import filters_are_due, write_filters
from bridgejax.studies.run_results import RESULTS_FILE, RUNS_FOLDER, update_results, write_results
from bridgejax.studies.set_comparison import comparison_is_due, write_comparison
from bridgejax.studies.study_plan import StudyPlan, plan_study
from bridgejax.studies.study_sets import plan_set
from bridgejax.studies.work_units import HandOut, hand_out_runs, hand_out_shards
from bridgejax.synthesis.store import IDENTITY_FILE


def run_study(settings: Settings, workdir: Path, hand_out: HandOut | None = None) -> Path:
    """Generates and trains every arm with every seed; continues what an earlier call began.

    Args:
      settings: the config.
      workdir: the folder to work in.
      hand_out: has shards and runs made by other processes; None makes them here.

    Returns:
      The path of results.jsonl; `bridgejax.report` makes the report of what the workdir holds.
    """
    check_workdir(workdir, settings)
    plan = plan_study(settings)
    with open_workdir(workdir, settings):
        trainings = plan.trainings()
        if hand_out is None and any(load_result(plan, workdir, run) is None for run in trainings):
            begin_import()  # while the images are made
        generate_sets(plan, workdir, plan.runs, _shards_by(plan, workdir, hand_out))
        pending = [run for run in trainings if load_result(plan, workdir, run) is None]
        if pending:
            scale = f"{len(settings.arms)} arms, {settings.study.seeds} seeds"
            stage_heading(f"train: {len(pending)} of {len(trainings)} runs ({scale})")
            train_pending(plan, workdir, pending) if hand_out is None else hand_out_runs(plan, workdir, hand_out, pending)
        if is_first():
            _write_results(plan, workdir)
    return workdir / RESULTS_FILE


def _write_results(plan: StudyPlan, workdir: Path) -> None:
    """Writes the results of every run, and what the report shows beside them."""
    results = [load_result(plan, workdir, run) for run in plan.runs]
    changed = write_results(workdir, [result for result in results if result is not None])
    if changed or filters_are_due(plan, workdir):
        write_filters(plan, workdir)
    if changed or not (workdir / EXAMPLES_FILE).is_file() or comparison_is_due(plan, workdir):
        write_examples(plan, workdir)
        write_comparison(plan, workdir)


def _shards_by(plan: StudyPlan, workdir: Path, hand_out: HandOut | None) -> CarryOut | None:
    return None if hand_out is None else functools.partial(hand_out_shards, plan, workdir, hand_out)


def generate(settings: Settings, workdir: Path, hand_out: HandOut | None = None) -> Path:
    """Makes the synthetic sets of the config's arms, or what is missing or damaged of them; returns the first one's folder."""
    check_workdir(workdir, settings)
    plan = plan_study(settings, trains=False)
    if not plan.sets:
        raise UserError("none of the config's arms uses synthetic images; name one that does in arms, for instance 'bridged'.")
    with open_workdir(workdir, settings):
        generate_sets(plan, workdir, plan.runs, _shards_by(plan, workdir, hand_out))
    first = plan.runs[0]
    return workdir / next(iter(plan.sets.values())).folder(first.shots, first.seed)


def verify(settings: Settings, workdir: Path) -> Path:
    """Reads every checksum of the synthetic sets in a workdir and prints what is damaged or missing; changes nothing.

    Raises:
      DamageFound: a shard is damaged or missing; the next `generate` makes these anew.
    """
    from bridgejax.synthesis import verify_set

    check_workdir(workdir, settings)
    folders = sorted(file.parent for file in workdir.rglob(IDENTITY_FILE) if (file.parent / SIDECARS).is_dir())
    if not folders:
        raise UserError(f"--workdir {workdir} holds no synthetic set; run `bridgejax generate` without --verify first.")
    checks = [verify_set(folder) for folder in folders] if is_first() else []
    for line in (line for check in checks for line in check.lines()):
        print(line)
    faults = sum(len(check.damaged) + len(check.missing) for check in checks)
    if not all(check.whole for check in checks):
        raise DamageFound(f"{faults} shards in {workdir} are damaged or missing; run `bridgejax generate` to make them anew.")
    return workdir


def train(settings: Settings, workdir: Path, recipe: str | None = None, seed: int = 0) -> Path:
    """Trains one recipe with one seed (generating first if it needs images) and keeps its trained classifier.

    Returns:
      The folder of the run: `result.json` and `classifier/`, which `load_classifier` reads.
    """
    from bridgejax.models import save_classifier
    from bridgejax.models.classifier import Classifier

    name = recipe or settings.arms[0]
    if name not in settings.recipes:
        raise UserError(f"--recipe {name!r} is not a recipe in this config; {choices(name, settings.recipes)}")
    _check_seed(seed)
    if any(stage.head != "keep" for stage in settings.recipe(name).stages):
        raise UserError(
            f"--recipe {name!r} ends with a head that no published layout of classifiers has, so it cannot be kept; see its "
            "accuracy by `bridgejax run`."
        )
    study = dataclasses.replace(settings.study, seeds=max(settings.study.seeds, seed + 1))
    settings = dataclasses.replace(settings, arms=(name,), study=study)
    check_workdir(workdir, settings)
    plan = plan_study(settings)
    run = next(candidate for candidate in plan.trainings() if candidate.seed == seed)
    folder = workdir / RUNS_FOLDER / run.folder
    with open_workdir(workdir, settings):
        generate_sets(plan, workdir, [run])
        if load_result(plan, workdir, run) is None or not (folder / CLASSIFIER).is_dir():
            stage_heading(f"train: {name}, seed {seed}")
            for _, result in train_runs(plan, workdir, [run]):
                model = cast(Classifier, result.state.model)  # where it is split over processes, all gather it
                if is_first():
                    aside = folder / f"{TEMPORARY_PREFIX}{CLASSIFIER}"
                    shutil.rmtree(aside, ignore_errors=True)
                    model.class_names = plan.class_names
                    save_classifier(model, aside)
                    aside.rename(folder / CLASSIFIER)  # whole or absent
        if is_first():
            lines = [load_result(plan, workdir, each) for each in plan.runs if plan.trained(each) == run]
            update_results(workdir, [line for line in lines if line is not None])
    return folder


def invert(settings: Settings, workdir: Path, seed: int = 0) -> Path:
    """Learns the config's tokens from the shots of one seed, for every count of shots of the study; returns their folder.

    Args:
      settings: the config; its `inversion.mode` None is taken as "dataset" where no synthetic set learns a token.
      workdir: the folder to work in.
      seed: of the study.
    """
    _check_seed(seed)
    mode = settings.inversion.mode
    if mode is not None and mode not in LEARNED_MODES:
        raise UserError(f"inversion.mode={mode!r} has no new token, so nothing is learned; choose 'dataset' or 'class'.")
    named = any(settings.of_set(name).inversion.mode in LEARNED_MODES for name in settings.synthetic_sets)
    settings = dataclasses.replace(
        settings,
        inversion=dataclasses.replace(settings.inversion, mode=mode if mode or named else "dataset"),
        study=dataclasses.replace(settings.study, seeds=max(settings.study.seeds, seed + 1)),
    )
    check_workdir(workdir, settings)
    plan = plan_study(settings, load_generators=False)
    learning = [study_set for study_set in plan.sets.values() if study_set.learns]
    if not learning:
        learning = [plan_set(settings, "", plan.class_names, plan.generation_mesh)]
    shots = dict.fromkeys(run.shots for run in plan.runs)
    learners = [each.learner(workdir, plan.task(count, seed), count, seed) for each in learning for count in shots]
    with open_workdir(workdir, settings):
        for learner in learners:
            learner.learn()
    return learners[0].folder


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UserError(f"--seed is {seed}; it should be a whole number of at least 0.")
