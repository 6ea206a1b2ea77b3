"""From a config's `executor` to what hands out its units, and how often each is tried."""

from __future__ import annotations

import collections
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from bridgejax.config import Settings
from bridgejax.errors import UserError
from bridgejax.executors.unit_calls import DONE, WRONG, UnitJob, UnitOutcome, weight_digests
from bridgejax.progress import progress, stage_heading
from bridgejax.studies.study_plan import StudyPlan
from bridgejax.studies.work_units import HandOut, WorkUnit


class Engine(Protocol):
    """Carries out units: `engine(job, queue)` takes them from the left of the queue and yields how each try ended.

    A unit that should be tried again is put back into the queue by the caller, before it asks for the next outcome.
    """

    def __call__(self, job: UnitJob, queue: collections.deque[WorkUnit]) -> Iterator[tuple[WorkUnit, UnitOutcome]]: ...


# executor → the module whose `engine` it is.
_ENGINES = {"processes": "process_engine", "ray": "ray_engine", "slurm": "slurm_engine"}


def executor_of(settings: Settings) -> HandOut | None:
    """Returns what hands out a config's units; None where they are made in this process.

    Raises:
      UserError: the engine is not installed.
    """
    if settings.executor not in _ENGINES:
        return None
    engine: Engine = importlib.import_module(f"bridgejax.executors.{_ENGINES[settings.executor]}").engine

    def hand_out(plan: StudyPlan, workdir: Path, units: Sequence[WorkUnit]) -> None:
        import jax

        if jax.process_count() > 1:
            raise UserError(
                f"executor is {settings.executor!r}, which hands out work from one process; start the command once, or set "
                "executor='local' to work with all these processes."
            )
        stage_heading(f"{settings.executor}: {len(units)} {units[0].kind}s")
        job = UnitJob(settings, workdir.resolve(), weights=weight_digests(plan))
        carry_out(engine, job, units)

    return hand_out


def carry_out(engine: Engine, job: UnitJob, units: Sequence[WorkUnit]) -> None:
    """Has every unit made.

    Raises:
      UserError: a unit met a wrong input, or failed as often as it may be tried; the sentence is the last try's.
    """
    queue = collections.deque(units)
    tries: collections.Counter[WorkUnit] = collections.Counter()
    outcomes = engine(job, queue)
    try:
        with progress(len(units), units[0].kind, "unit") as bar:
            for unit, outcome in outcomes:
                tries[unit] += 1
                at = f" on {outcome.place}" if outcome.place else ""
                if outcome.code == DONE:
                    bar.update(1)
                elif outcome.code == WRONG:
                    raise UserError(f"{unit}{at}: {outcome.sentence}")
                elif tries[unit] >= job.settings.executor_options.tries:
                    raise UserError(
                        f"{unit} failed {tries[unit]} times, the last time{at}: {outcome.sentence} What is done is kept; the "
                        "same command goes on."
                    )
                else:
                    stage_heading(f"  {unit} is tried again{at}: {outcome.sentence}")
                    bar.tried_again()
                    queue.append(unit)
    finally:
        close = getattr(outcomes, "close", None)
        if close is not None:
            close()
