"""Units as the tasks of a SLURM array, submitted by submitit; a task that is preempted or out of time is queued again."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator, Sequence
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
_STATE_SECONDS = 30  # how often SLURM is asked about tasks that left no result

Outcomes = list[tuple[WorkUnit, UnitOutcome]]


@dataclasses.dataclass(frozen=True)
class ArrayTask:
    """What one task of an array does: its units one after the other, in one process."""

    job: UnitJob

    def __call__(self, units: Sequence[WorkUnit]) -> Outcomes:
        with contextlib.suppress(ValueError):  # not in a main thread
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGUSR2))  # submitit's handler, which queues the task again
        return [(unit, make_unit(self.job, unit)) for unit in units]

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
                if ask := time.monotonic() - asked > _STATE_SECONDS:
                    asked = time.monotonic()
                for submitted in [each for each in running if each.done(force_check=ask)]:
                    part = running.pop(submitted)
                    try:
                        outcomes: Outcomes = submitted.result()
                    except (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError) as error:
                        reason = f"SLURM's job {submitted.job_id} ended without a result ({submitted.state}); its log is "
                        reason += f"{submitted.paths.stderr}. {type(error).__name__}"
                        outcomes = [(unit, UnitOutcome(AGAIN, reason)) for unit in part]
                    yield from outcomes
                time.sleep(_LOOK_SECONDS if running else 0.0)
        finally:
            for submitted in running:  # the command ends early
                submitted.cancel(check=False)


def _submit(job: UnitJob, workers: int, parts: Sequence[Sequence[WorkUnit]]) -> list[submitit.Job[Any]]:
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
