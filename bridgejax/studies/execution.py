"""A study's work carried out in its workdir: sets generated, runs trained; what is there already is not done again."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridgejax import workdir as workdirs
from bridgejax.config import Settings, differences
from bridgejax.data import Task
from bridgejax.files import TEMPORARY_PREFIX, canonical_json, write_json
from bridgejax.mesh import barrier
from bridgejax.progress import shown_in, spent, stage_heading
from bridgejax.runtime import is_first
from bridgejax.studies.run_groups import group_runs, group_size, train_seeds
from bridgejax.studies.run_images import RunImages, judge_images
from bridgejax.studies.run_results import CHECKPOINTS, RESULT_FILE, RUNS_FOLDER, add_seconds, read_run_record
from bridgejax.studies.study_plan import TEST, StudyPlan, StudyRun
from bridgejax.studies.study_sets import StudySet
from bridgejax.training import RunResult

if TYPE_CHECKING:
    from bridgejax.diffusion.pipeline import Pipeline

CLASSIFIER = "classifier"

CarryOut = Callable[[Path, Sequence[int]], object]  # has shards of the set in a folder of the workdir made by others


def check_workdir(workdir: Path, settings: Settings) -> None:
    """Checks the workdir in the first process; the others find it half-made."""
    if is_first():
        workdirs.check_workdir(workdir, plain_settings(settings), differences)


@contextlib.contextmanager
def open_workdir(workdir: Path, settings: Settings) -> Iterator[None]:
    """Opens the workdir: the first process locks it for all and leaves it last, when the others have ended their work."""
    opened = workdirs.open_workdir(workdir, plain_settings(settings), differences) if is_first() else contextlib.nullcontext()
    with shown_in(workdir, is_first()), opened:
        if is_first():
            _remove_leftovers(workdir)  # of a command that was killed
        barrier("bridgejax: workdir open")
        workdirs.check_shared(workdir)
        yield
        if is_first():
            _remove_leftovers(workdir)  # of a worker that was killed and its run made by another
        with spent("wait"):
            barrier("bridgejax: workdir done")


def _remove_leftovers(workdir: Path) -> None:
    for leftover in (workdir / RUNS_FOLDER).glob(f"*/*/{TEMPORARY_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def plain_settings(settings: Settings) -> dict[str, object]:
    """Returns the settings as `config.json` keeps them."""
    return json.loads(canonical_json(dataclasses.asdict(settings)))


def generate_sets(plan: StudyPlan, workdir: Path, runs: Sequence[StudyRun], carry_out: CarryOut | None = None) -> None:
    """Makes what is missing or damaged of the synthetic sets that the runs train with, learning their tokens before.

    Args:
      plan: the study.
      workdir: its folder.
      runs: those that train with the sets.
      carry_out: has missing shards made; None makes them in this process.
    """
    for name, study_set in plan.sets.items():
        if any(name in plan.recipes[run.arm].synthetic_sets for run in runs):
            plan.sets[name] = study_set.with_sentences(workdir)
    for study_set in plan.sets.values():
        users = [run for run in runs if study_set.name in plan.recipes[run.arm].synthetic_sets]
        splits = list(dict.fromkeys((run.shots, run.seed) for run in users))[: None if study_set.by_split else 1]
        # What is wrong with one shows before any is learned.
        learners = [study_set.learner(workdir, plan.task(*split), *split) if study_set.learns else None for split in splits]
        for split, learner in zip(splits, learners, strict=True):
            if learner is not None:
                began, known = time.monotonic(), learner.finished()
                learner.learn()
                if is_first() and not known:
                    add_seconds(workdir, "invert", time.monotonic() - began)
            generate_set_of(plan, study_set, study_set.generator(learner), workdir, *split, carry_out=carry_out)


def generate_set_of(
    plan: StudyPlan,
    study_set: StudySet,
    pipeline: Pipeline,
    workdir: Path,
    shots: int | None,
    seed: int,
    *,
    carry_out: CarryOut | None = None,
    shards: Sequence[int] | None = None,
) -> int:
    """Makes what lacks or is damaged of a set, or of some of its shards (others are verified); returns how many images."""
    from bridgejax.synthesis import generate_set

    folder, options = study_set.folder(shots, seed), study_set.options
    directory = workdir / folder
    named = f" of set {study_set.name!r}" if study_set.name else ""
    classes, per_class = len(options.class_names), study_set.count(plan.per_class)
    images = f"{per_class * classes} images of {classes} classes{named}"
    if shards is None:
        stage_heading(f"generate: {images}, {options.sampling.steps} steps each")
    if is_first():
        directory.parent.mkdir(parents=True, exist_ok=True)
    made = generate_set(
        directory,
        pipeline=pipeline,
        shards=shards,
        carry_out=None if carry_out is None else functools.partial(carry_out, folder),
        mesh=plan.generation_mesh,
        per_class=per_class,
        batch_size=study_set.settings.generator.batch_size,
        shard_size=study_set.settings.synthetic.shard_size,
        class_names=options.class_names,
        template=options.template,
        variants=options.variants,
        seed=options.seed,
        guidance=study_set.guidance(plan.task(shots, seed), shots) if study_set.by_split else None,
        **dataclasses.asdict(options.sampling),
    )
    if is_first() and made.images_made and shards is None:
        add_seconds(workdir, "generate", made.seconds)
    return made.images_made


def train_pending(plan: StudyPlan, workdir: Path, pending: Sequence[StudyRun]) -> None:
    """Trains the runs, with a line for each."""
    began = time.monotonic()
    try:
        for number, (run, result) in enumerate(train_runs(plan, workdir, pending), start=1):
            accuracy = result.metrics["test_mean_per_class_accuracy"]
            about = f"{run.arm}, {run.shots_text} shots, seed {run.seed}"
            stage_heading(f"  {number}/{len(pending)} {about}: {accuracy:.3f} mean per class")
    finally:
        if is_first():
            add_seconds(workdir, "train", time.monotonic() - began)


def train_runs(plan: StudyPlan, workdir: Path, runs: Sequence[StudyRun]) -> Iterator[tuple[StudyRun, RunResult]]:
    """Trains the runs, recording each result when it is whole; errors as of `train_seeds`."""
    judge_images(plan, workdir, runs)
    images = RunImages(plan, workdir)
    for group in group_runs(runs, group_size(plan)):
        folders = [workdir / RUNS_FOLDER / run.folder for run in group]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        results = train_seeds(plan, group, folders, [images.of(run) for run in group])
        for run, folder, result in zip(group, folders, results, strict=True):
            keep_result(plan, folder, run, result)
            if is_first():
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            yield run, result


def keep_result(plan: StudyPlan, folder: Path, run: StudyRun, result: RunResult) -> None:
    """Records the result of a run, whole."""
    content = _result(run, plan.task(run.shots, run.seed), result, plan.eval_split)
    if is_first():
        shutil.rmtree(folder / CLASSIFIER, ignore_errors=True)  # of another recipe, that the folder held before
        write_json(folder / RESULT_FILE, {"identity": plan.identity(run), "result": content})


def _result(run: StudyRun, task: Task, result: RunResult, eval_split: str) -> dict[str, object]:
    """Returns what is kept of a run; what was evaluated on other images does not go by the name of the test part."""
    from bridgejax.training.stages import eval_part

    def named(entry: Mapping[str, object]) -> dict[str, object]:
        prefixed = {key: f"{eval_split}_{key.removeprefix('test_')}" if key.startswith("test_") else key for key in entry}
        return {key if eval_split == TEST else prefixed[key]: value for key, value in entry.items()}

    evaluated = eval_part(task, eval_split)
    return named(
        {
            "arm": run.arm,
            "seed": run.seed,
            "shots": run.shots,
            "per_class": run.per_class,
            "task": task.name,
            "classes": list(task.class_names),
            "real_images": len(task.train),
            "test_images": len(evaluated),
            "test_ids": list(evaluated.ids),
            "test_labels": [int(label) for label in evaluated.labels],
            **result.metrics,
            "history": [named(entry) for entry in result.history],
        }
    )


def run_record(plan: StudyPlan, workdir: Path, run: StudyRun) -> dict[str, object]:
    """Returns what is kept of the training that serves a run; empty unless it was made by the same identity."""
    trained = plan.trained(run)
    return read_run_record(workdir / RUNS_FOLDER / trained.folder, plan.identity(run))


def load_result(plan: StudyPlan, workdir: Path, run: StudyRun) -> dict[str, object] | None:
    """Returns the line of a run's result, None if it is not there yet."""
    result = run_record(plan, workdir, run).get("result")
    return {**result, "volume": run.per_class} if isinstance(result, dict) else None
