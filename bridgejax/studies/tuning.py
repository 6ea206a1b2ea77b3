"""`bridgejax tune`: every arm tries the same rates and lengths on the validation images; the test part stays unseen."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from bridgejax.config import Settings
from bridgejax.errors import UserError
from bridgejax.files import write_atomic, write_json
from bridgejax.mesh import barrier
from bridgejax.progress import stage_heading
from bridgejax.recipes import Recipe
from bridgejax.runtime import is_first
from bridgejax.studies.execution import check_workdir, generate_sets, load_result, open_workdir, run_record, train_pending
from bridgejax.studies.run_groups import StudyRunDiverged
from bridgejax.studies.run_results import RESULT_FILE, RUNS_FOLDER
from bridgejax.studies.study_plan import VALIDATION, StudyPlan, StudyRun, plan_study, tuning_scope
from bridgejax.studies.tuned_rates import TuningScope, with_candidate

TUNING_FILE, TABLE_FILE = "tuning.json", "tuning.md"
_METRIC = f"{VALIDATION}_mean_per_class_accuracy"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An arm at a rate, with every stage so many times as long as the config says."""

    arm: str
    learning_rate: float
    length: float

    @property
    def name(self) -> str:
        """What its runs are called."""
        return f"{self.arm}+rate-{self.learning_rate:g}+length-{self.length:g}"


@dataclasses.dataclass(frozen=True)
class CandidateResult:
    """What came of a candidate."""

    candidate: Candidate  # which
    steps: int  # optimiser steps of a run
    accuracies: tuple[float, ...]  # mean per-class accuracy on the validation images of each of its runs, in [0, 1]
    diverged: bool  # whether one of its runs did; then it has no accuracies

    @property
    def accuracy(self) -> float | None:
        """The mean of `accuracies`, None if there are none."""
        return sum(self.accuracies) / len(self.accuracies) if self.accuracies else None

    def to_dict(self) -> dict[str, object]:
        """Returns the row of `tuning.json`."""
        return {
            **dataclasses.asdict(self.candidate),
            "train_steps": self.steps,
            "diverged": self.diverged,
            "accuracy": self.accuracy,
            "each": list(self.accuracies),
        }


@dataclasses.dataclass(frozen=True)
class TuningPlan:
    """The runs of every candidate."""

    study: StudyPlan  # its arms are the candidates by name; it is evaluated on the validation images
    candidates: tuple[Candidate, ...]  # in the order of arms, lengths, rates
    scope: TuningScope  # what their accuracies hold for

    def diverged(self, workdir: Path) -> set[str]:
        """Returns the names of the candidates of which a run diverged."""
        return {run.arm for run in self.study.trainings() if "diverged" in run_record(self.study, workdir, run)}

    def pending(self, workdir: Path) -> list[StudyRun]:
        """Returns the runs that are yet to be trained: none of a candidate that diverged."""
        diverged, trainings = self.diverged(workdir), self.study.trainings()
        return [run for run in trainings if run.arm not in diverged and load_result(self.study, workdir, run) is None]

    def results(self, workdir: Path) -> list[CandidateResult]:
        """Returns what came of each candidate, once nothing is pending."""
        diverged, results = self.diverged(workdir), []
        for candidate in self.candidates:
            lost = candidate.name in diverged
            runs = [run for run in self.study.runs if run.arm == candidate.name and not lost]
            lines = [load_result(self.study, workdir, run) for run in runs]
            values = [line[_METRIC] for line in lines if line is not None]
            accuracies = tuple(value for value in values if isinstance(value, float))
            results.append(CandidateResult(candidate, self.study.recipes[candidate.name].steps, accuracies, lost))
        return results


def plan_tuning(settings: Settings) -> TuningPlan:
    """Loads and checks what tuning a config takes; `study.seeds` gives way to `tuning.seeds`.

    Args:
      settings: with `task.validation_per_class` of at least 1.

    Raises:
      UserError: as `plan_study`; there are no validation images; or a recipe does not follow the rate or the length.
    """
    if settings.task.validation_per_class < 1:
        raise UserError(
            "task.validation_per_class is 0, but tuning evaluates on validation images, never on the test part; set it to at "
            "least 1 (they are taken out of the training images, so task.shots must be larger)."
        )
    plan = plan_study(settings)
    grid = [(rate, length) for length in settings.tuning.lengths for rate in settings.tuning.learning_rates]
    candidates = tuple(Candidate(arm, rate, length) for arm in settings.arms for rate, length in grid)
    recipes = {}
    for candidate in candidates:
        training = with_candidate(settings.training, candidate.learning_rate, candidate.length)
        recipe = dataclasses.replace(settings, training=training).recipe(candidate.arm)
        recipes[candidate.name] = dataclasses.replace(recipe, name=candidate.name)
    for arm in settings.arms:
        _check_follows(arm, recipes, [candidate for candidate in candidates if candidate.arm == arm])
    runs = [
        dataclasses.replace(run, arm=candidate.name)
        for run in plan.runs
        for candidate in candidates
        if candidate.arm == run.arm
    ]
    order = {name: number for number, name in enumerate(recipes)}
    runs.sort(key=lambda run: (str(run.shots), run.per_class, order[run.arm], run.seed))
    study = dataclasses.replace(plan, recipes=recipes, runs=tuple(runs), eval_split=VALIDATION)
    scope = tuning_scope(settings, plan.task(plan.runs[0].shots, 0), plan.classifier_digest)
    return TuningPlan(study, candidates, scope)


def tune(settings: Settings, workdir: Path) -> Path:
    """Trains every arm at every rate and length of `tuning`, or goes on, and records the best of each in tuning.json.

    The budget is the same for every arm: rates × lengths × seeds (× shot counts and volumes of the study). `choose` says which
    is the best; a candidate of which a run diverges is out.

    Returns:
      The path of tuning.json; the table lies beside it (tuning.md).

    Raises:
      UserError: as `plan_tuning`; or every candidate of an arm diverged.
    """
    settings = dataclasses.replace(
        settings,
        study=dataclasses.replace(settings.study, seeds=settings.tuning.seeds),
        training=dataclasses.replace(settings.training, tuned=None),
    )
    check_workdir(workdir, settings)
    plan = plan_tuning(settings)
    with open_workdir(workdir, settings):
        generate_sets(plan.study, workdir, plan.study.runs)
        scale = f"{len(settings.arms)} arms, {len(plan.candidates) // len(settings.arms)} candidates each"
        while pending := plan.pending(workdir):
            stage_heading(f"tune: {len(pending)} of {len(plan.study.trainings())} runs ({scale})")
            try:
                train_pending(plan.study, workdir, pending)
            except StudyRunDiverged as error:
                _give_up(plan.study, workdir, error.run)
            barrier("bridgejax: candidates trained")  # what is pending is read from the files of the first process
        results = plan.results(workdir)
        best = {arm: choose(arm, results, settings.tuning.learning_rates) for arm in settings.arms}
        if is_first():
            write_json(workdir / TUNING_FILE, _record(settings, plan.scope, results, best))
            write_atomic(workdir / TABLE_FILE, _table(settings, results, best.values()))
    return workdir / TUNING_FILE


def choose(arm: str, results: Iterable[CandidateResult], rates: Sequence[float]) -> CandidateResult:
    """Returns an arm's best candidate.

    It has the highest mean per-class accuracy on the validation images, averaged over runs; of equal ones it is the shorter,
    then that with the smaller rate.

    Raises:
      UserError: every candidate of the arm diverged; `rates` are those that were tried.
    """
    left = [(result.accuracy, result) for result in results if result.candidate.arm == arm and not result.diverged]
    ranked = [
        (accuracy, -result.candidate.length, -result.candidate.learning_rate, number)
        for number, (accuracy, result) in enumerate(left)
        if accuracy is not None
    ]
    if not ranked:
        listed = ", ".join(f"{rate:g}" for rate in rates)
        raise UserError(f"every candidate of arm {arm!r} diverged; give lower tuning.learning_rates than {listed}.")
    return left[max(ranked)[-1]][1]


def _give_up(study: StudyPlan, workdir: Path, run: StudyRun) -> None:
    """Records that a run diverged; none of its candidate goes on."""
    stage_heading(f"  {run.arm} diverged with seed {run.seed}: this candidate is out")
    if is_first():
        runs = workdir / RUNS_FOLDER
        write_json(runs / run.folder / RESULT_FILE, {"identity": study.identity(run), "diverged": True})
        for checkpoints in (runs / run.arm).glob("*/checkpoints"):
            shutil.rmtree(checkpoints, ignore_errors=True)


def _record(
    settings: Settings, scope: TuningScope, results: Sequence[CandidateResult], best: Mapping[str, CandidateResult]
) -> dict[str, object]:
    chosen = {}
    for arm, result in best.items():
        candidate = result.candidate
        training = with_candidate(settings.training, candidate.learning_rate, candidate.length)
        chosen[arm] = {
            "learning_rate": training.learning_rate,
            "base_steps": training.base_steps,
            "steps": training.steps,
            "length": candidate.length,
            "accuracy": result.accuracy,
        }
    return {
        "made_for": dataclasses.asdict(scope),
        "metric": "mean per-class accuracy on validation images, in [0, 1]",
        "budget": {
            "learning_rates": list(settings.tuning.learning_rates),
            "lengths": list(settings.tuning.lengths),
            "seeds": settings.tuning.seeds,
            "validation_per_class": settings.task.validation_per_class,
        },
        "candidates": [result.to_dict() for result in results],
        "chosen": chosen,
    }


def _table(settings: Settings, results: Iterable[CandidateResult], best: Collection[CandidateResult]) -> str:
    """Returns the results as Markdown: accuracies in %, the chosen ones in bold."""
    budget = f"{len(settings.tuning.learning_rates)} rates × {len(settings.tuning.lengths)} lengths"
    lines = [
        "# Rates and lengths by validation images",
        "",
        f"Mean per-class accuracy in % on {settings.task.validation_per_class} validation images per class, over "
        f"{settings.tuning.seeds} seeds; every arm tried {budget}; chosen in bold.",
        "",
        "| arm | rate | length | steps | accuracy, % |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        candidate, accuracy = result.candidate, result.accuracy
        shown = "diverged" if accuracy is None else f"{100 * accuracy:.1f}"
        cells = (candidate.arm, f"{candidate.learning_rate:g}", f"{candidate.length:g}", str(result.steps))
        lines.append(f"| {' | '.join(cells)} | {f'**{shown}**' if result in best else shown} |")
    return "\n".join(lines) + "\n"


def _check_follows(arm: str, recipes: Mapping[str, Recipe], candidates: Sequence[Candidate]) -> None:
    """Checks that every stage of an arm follows the rate, and its recipe the length, that tuning sets."""
    first = candidates[0]
    if not any(stage.learning_rate for stage in recipes[first.name].stages):
        return  # there is nothing to tune about a classifier as it is
    by_rate = [recipes[candidate.name] for candidate in candidates if candidate.length == first.length]
    for number in range(len(by_rate[0].stages)):
        if len({recipe.stages[number].learning_rate for recipe in by_rate}) < len(by_rate):
            raise UserError(
                f"recipes.{arm}[{number}] states its own learning_rate, so tuning cannot set it; leave it out, or give a "
                "lr_scale."
            )
    by_length = [recipes[candidate.name].steps for candidate in candidates if candidate.learning_rate == first.learning_rate]
    if len(set(by_length)) < len(by_length):
        raise UserError(
            f"recipes.{arm} has the same number of steps at two of tuning.lengths; let its stages follow "
            "training.base_steps, or give lengths further apart."
        )
