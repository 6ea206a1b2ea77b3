"""`bridgejax tune`: every arm tries the same rates and lengths, judged on validation images; the test part stays unseen."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridgejax.errors import Diverged, UserError
from bridgejax.identity import digest, write_atomic, write_json
from bridgejax.mesh import barrier
from bridgejax.progress import stage_heading
from bridgejax.runtime import is_first
from bridgejax.studies import run as studies
from bridgejax.studies.tuned import made_for, with_candidate
from bridgejax.training.recipes import Recipe, recipe_from_config

TUNING_FILE, TABLE_FILE = "tuning.json", "tuning.md"
_METRIC = "test_mean_per_class_accuracy"


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


class TuningStudy(studies.Study):
    """The runs of every candidate, each judged on the validation images of its draw in place of the test part.

    Raises:
      UserError: there are no validation images, or a recipe does not follow `training.learning_rate` or its length.
    """

    judged = "validation"

    def __init__(self, config: Any) -> None:
        if config.task.validation_per_class < 1:
            raise UserError(
                "task.validation_per_class is 0, but tuning judges on validation images, never on the test part; set it to at "
                "least 1 (they are taken out of the training images, so task.shots must be larger)."
            )
        with config.unlocked():
            config.study.seeds = config.tuning.seeds
            config.training.tuned = None
        super().__init__(config)
        grid = [(rate, length) for length in config.tuning.lengths for rate in config.tuning.learning_rates]
        self.candidates = [Candidate(arm, float(rate), float(length)) for arm in config.arms for rate, length in grid]
        self.made_for = made_for(self)
        plain, built = self.plain, {}
        for one in self.candidates:
            recipe = recipe_from_config(
                one.arm, plain["recipes"], with_candidate(plain["training"], one.learning_rate, one.length)
            )
            built[one.name] = Recipe(one.name, recipe.stages)
        _check_follows(config, built, self.candidates)
        self.recipes = built
        self.runs = [
            dataclasses.replace(one, arm=candidate.name)
            for one in self.runs
            for candidate in self.candidates
            if candidate.arm == one.arm
        ]
        self.runs.sort(key=lambda one: (str(one.shots), one.per_class, list(built).index(one.arm), one.seed))

    def task(self, shots: int | None, seed: int) -> Any:
        """Returns the task whose test part is the validation part: what is not there cannot be looked at."""
        whole = super().task(shots, seed)
        return dataclasses.replace(whole, test=whole.validation, digest=digest(["validation", whole.digest]))

    def lost(self, workdir: Path) -> set[str]:
        """Returns the names of the candidates of which a run diverged."""
        return {one.arm for one in self.trainings() if "diverged" in studies.load_record(self, workdir, one)}

    def pending(self, workdir: Path) -> list[studies.Run]:
        """Returns the runs that are yet to be trained: none of a candidate that has lost."""
        lost = self.lost(workdir)
        return [one for one in self.trainings() if one.arm not in lost and studies.load_result(self, workdir, one) is None]


def tune(config: Any, workdir: Path) -> Path:
    """Trains every arm at every rate and length of `tuning`, and records the best of each in `workdir/tuning.json`.

    The budget is the same for every arm: rates × lengths × seeds (× shot counts and volumes of the study). The best has the
    highest mean per-class accuracy on the validation images, averaged over them; of equal ones the shorter, then that with
    the smaller rate. A candidate of which a run diverges has lost.

    Args:
      config: a checked config with `task.validation_per_class` of at least 1. `study.seeds` gives way to `tuning.seeds`.
      workdir: the folder to work in; again: continues.

    Returns:
      The path of tuning.json; the table lies beside it (tuning.md).

    Raises:
      UserError: as `TuningStudy`; or every candidate of an arm diverged.
    """
    studies.check_workdir(workdir, config)
    study = TuningStudy(config)
    with studies.opened(workdir, study.plain):
        studies.generate_for(study, workdir, study.runs)
        count, total = len(study.candidates) // len(config.arms), len(study.trainings())
        while pending := study.pending(workdir):
            stage_heading(f"tune: {len(pending)} of {total} runs ({len(config.arms)} arms, {count} candidates each)")
            try:
                studies.train_pending(study, workdir, pending)
            except Diverged as error:
                _give_up(study, workdir, error.run)
            barrier("bridgejax: candidates trained")  # what is pending is read from the files of the first process
        lost = study.lost(workdir)
        _check_left(study, lost)
        if is_first():
            record = _record(study, workdir, lost)
            write_json(workdir / TUNING_FILE, record)
            write_atomic(workdir / TABLE_FILE, _table(record))
    return workdir / TUNING_FILE


def _give_up(study: TuningStudy, workdir: Path, run: studies.Run) -> None:
    """Records that a run diverged; none of its candidate goes on."""
    stage_heading(f"  {run.arm} diverged with seed {run.seed}: it has lost")
    if is_first():
        runs = workdir / studies.RUNS_FOLDER
        write_json(runs / run.folder / studies.RESULT_FILE, {"identity": study.identity(run), "diverged": True})
        for checkpoints in (runs / run.arm).glob("*/checkpoints"):
            shutil.rmtree(checkpoints, ignore_errors=True)


def _check_left(study: TuningStudy, lost: set[str]) -> None:
    for arm in study.config.arms:
        if all(one.name in lost for one in study.candidates if one.arm == arm):
            rates = ", ".join(f"{rate:g}" for rate in study.config.tuning.learning_rates)
            raise UserError(f"every candidate of arm {arm!r} diverged; give lower tuning.learning_rates than {rates}.")


def _record(study: TuningStudy, workdir: Path, lost: set[str]) -> dict[str, Any]:
    candidates: list[dict[str, Any]] = []
    chosen = {}
    for one in study.candidates:
        own_runs = [run for run in study.runs if run.arm == one.name and run.arm not in lost]
        results = [studies.load_result(study, workdir, run) for run in own_runs]
        each = [result[_METRIC.replace("test_", f"{study.judged}_")] for result in results if result is not None]
        candidates.append(
            {
                "arm": one.arm,
                "learning_rate": one.learning_rate,
                "length": one.length,
                "train_steps": study.recipes[one.name].steps,
                "diverged": one.name in lost,
                "accuracy": sum(each) / len(each) if each else None,
                "each": each,
            }
        )
    for arm in study.config.arms:
        own = [row for row in candidates if row["arm"] == arm and not row["diverged"]]
        best = max(own, key=lambda row: (row["accuracy"], -row["length"], -row["learning_rate"]))
        training = with_candidate(study.plain["training"], best["learning_rate"], best["length"])
        chosen[arm] = {
            **{key: training[key] for key in ("learning_rate", "base_steps", "steps")},
            "length": best["length"],
            "accuracy": best["accuracy"],
        }
    return {
        "made_for": study.made_for,
        "metric": "mean per-class accuracy on validation images, in [0, 1]",
        "budget": {
            "learning_rates": list(study.config.tuning.learning_rates),
            "lengths": list(study.config.tuning.lengths),
            "seeds": study.config.tuning.seeds,
            "validation_per_class": study.config.task.validation_per_class,
        },
        "candidates": candidates,
        "chosen": chosen,
    }


def _table(record: dict[str, Any]) -> str:
    """Returns the record as Markdown: accuracies in %, the chosen ones in bold."""
    budget = record["budget"]
    lines = [
        "# Rates and lengths by validation images",
        "",
        f"Mean per-class accuracy in % on {budget['validation_per_class']} validation images per class, over {budget['seeds']} "
        f"seeds; every arm tried {len(budget['learning_rates'])} rates × {len(budget['lengths'])} lengths; chosen in bold.",
        "",
        "| arm | rate | length | steps | accuracy, % |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in record["candidates"]:
        best = record["chosen"][row["arm"]]
        taken = (row["learning_rate"], row["length"]) == (best["learning_rate"], best["length"])
        shown = "diverged" if row["diverged"] else f"{100 * row['accuracy']:.1f}"
        cells = (row["arm"], f"{row['learning_rate']:g}", f"{row['length']:g}", str(row["train_steps"]))
        lines.append(f"| {' | '.join(cells)} | {f'**{shown}**' if taken else shown} |")
    return "\n".join(lines) + "\n"


def _check_follows(config: Any, built: dict[str, Recipe], candidates: Sequence[Candidate]) -> None:
    """Checks that every stage follows the rate, and every recipe the length, that tuning sets."""
    for arm in config.arms:
        own = [one for one in candidates if one.arm == arm]
        by_rate = [built[one.name] for one in own if one.length == own[0].length]
        for number in range(len(by_rate[0].stages)):
            rates = {recipe.stages[number].learning_rate for recipe in by_rate}
            if len(rates) < len(by_rate):
                raise UserError(
                    f"recipes.{arm}[{number}] states its own learning_rate, so tuning cannot set it; leave it out, or give a "
                    "rate_factor."
                )
        by_length = [built[one.name].steps for one in own if one.learning_rate == own[0].learning_rate]
        if len(set(by_length)) < len(by_length):
            raise UserError(
                f"recipes.{arm} has the same number of steps at two of tuning.lengths; let its stages follow "
                "training.base_steps, or give lengths further apart."
            )
