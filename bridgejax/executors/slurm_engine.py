"""Units as the tasks of a SLURM array, submitted by submitit; a task that is preempted or out of time is queued again."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bridgejax.errors import UserError
from bridgejax.executors.unit_calls import AGAIN, UnitJob, UnitOutcome, make_unit
from bridgejax.studies.work_units import WorkUnit

try:
    import submitit
except ImportError as error:
    raise UserError("executor is 'slurm', but submitit is not installed; `pip install 'bridgejax[slurm]'`.") from error

FOLDER = "slurm"  # below the workdir: submitit's scripts, logs and results
_DEFAULT_WORKERS = 16
_TASKS_PER_WORKER = 4  # of a unit at a time: short enough that slow machines do less, long enough that starting is little
_LOOK_SECONDS = 2.0
_STATE_SECONDS = 20.0  # how often SLURM is asked about tasks that left no result

Outcomes = list[tuple[WorkUnit, UnitOutcome]]


@dataclasses.dataclass(frozen=True)
class ArrayTask:
    """What one task of an array does: its units one after the other, in one process."""

    job: UnitJob

    def __call__(self, units: Sequence[WorkUnit]) -> Outcomes:
        with contextlib.suppress(ValueError):  # not in a main thread
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGUSR2))  # submitit's handler, which queues the task again
        print(f"bridgejax: {len(units)} units", file=sys.stderr, flush=True)  # in the task's log
        outcomes: Outcomes = []
        for unit in units:
            outcomes.append((unit, make_unit(self.job, unit)))
            print(f"bridgejax: {unit}: {outcomes[-1][1].sentence or 'there'}", file=sys.stderr, flush=True)
        return outcomes

    def checkpoint(self, units: Sequence[WorkUnit]) -> submitit.helpers.DelayedSubmission:
        """Returns what the task does when it is queued again: the same, since what is done is not done twice."""
        return submitit.helpers.DelayedSubmission(self, units)


def engine(job: UnitJob, queue: collections.deque[WorkUnit]) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
    """Carries out units; see `bridgejax.executors.hand_out.Engine`.

    Raises:
      UserError: there is no SLURM here, or it refuses the job.
    """
    workers = job.settings.executor_options.workers or _DEFAULT_WORKERS
    while queue:
        units = list(queue)
        queue.clear()
        tasks = min(len(units), workers * _TASKS_PER_WORKER)
        parts = [units[start::tasks] for start in range(tasks)]
        running = dict(zip(_submit(job, workers, parts), parts, strict=True))
        asked = time.monotonic()
        try:
            while running:
                ended = {each for each in running if each.paths.result_pickle.exists()}
                if time.monotonic() - asked > _STATE_SECONDS:
                    asked = time.monotonic()
                    ended |= set(running) - _in_queue(running)
                for submitted in ended:
                    part = running.pop(submitted)
                    yield from _outcomes(submitted, part)
                time.sleep(_LOOK_SECONDS if running else 0.0)
        finally:
            for submitted in running:  # the command ends early
                submitted.cancel(check=False)
            for leftover in (job.workdir / FOLDER).glob(".submission_file_*"):  # submitit's, for tasks that are queued again
                leftover.unlink(missing_ok=True)


def _outcomes(submitted: submitit.Job[Outcomes], part: Sequence[WorkUnit]) -> Outcomes:
    """Returns what a task returned; of one that ended without a result, that all its units are to be tried again."""
    if submitted.paths.result_pickle.exists():
        with contextlib.suppress(submitit.core.utils.FailedJobError):
            return submitted.result()
    reason = f"SLURM's job {submitted.job_id} ended without a result; see {submitted.paths.stderr}."
    return [(unit, UnitOutcome(AGAIN, reason)) for unit in part]


def _in_queue(jobs: Iterable[submitit.Job[Outcomes]]) -> set[submitit.Job[Outcomes]]:
    """Returns those that SLURM still has; all where it does not say, which not every site's accounting does."""
    numbers = ",".join(dict.fromkeys(each.job_id.partition("_")[0] for each in jobs))
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={numbers}"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return set(jobs)
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return set(jobs)
    there = set(asked.stdout.split())
    return {each for each in jobs if each.job_id in there}


def _submit(job: UnitJob, workers: int, parts: Sequence[Sequence[WorkUnit]]) -> list[submitit.Job[Outcomes]]:
    options = job.settings.executor_options
    extra = dict(options.slurm)
    cluster = str(extra.pop("cluster", "slurm"))
    try:
        executor = submitit.AutoExecutor(folder=job.workdir / FOLDER, cluster=cluster)
        parameters: dict[str, Any] = {
            "name": "bridgejax",
            "timeout_min": options.minutes,
            "cpus_per_task": max(1, round(options.cpus)),
            "slurm_array_parallelism": workers,
        }
        if options.gpus:
            parameters["gpus_per_node"] = max(1, round(options.gpus))
        executor.update_parameters(**{**parameters, **extra})
        return executor.map_array(ArrayTask(job), parts)
    except (RuntimeError, ValueError, NameError, AssertionError, submitit.core.utils.FailedJobError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"SLURM did not take the work ({reason}); run the command on a machine where `sbatch` and `srun` work, and see "
            "executor_options.slurm."
        ) from error
