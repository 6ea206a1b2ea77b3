"""Units as tasks of Ray, on a cluster or on this machine.

A task's process is kept for the next task, with all that is loaded and compiled. Lost processes and machines, machines that
come later, and where a task runs are Ray's.
"""

from __future__ import annotations

import collections
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

from bridgejax.errors import UserError
from bridgejax.executors.unit_calls import AGAIN, UnitJob, UnitOutcome, make_unit
from bridgejax.studies.work_units import WorkUnit

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise UserError("executor is 'ray', but Ray is not installed; `pip install 'bridgejax[ray]'`.") from error

_LOOK_SECONDS = 1.0


def engine(job: UnitJob, queue: collections.deque[WorkUnit]) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
    """Carries out units; see `bridgejax.executors.hand_out.Engine`.

    Raises:
      UserError: there is no cluster at the address, or no machine of it can hold a unit.
    """
    options = job.settings.executor_options
    started = not ray.is_initialized()
    if started:
        _connect(options.address)
    try:
        # A worker holds a GPU between tasks (max_calls=0): what it compiled is what makes the next task fast.
        task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.tries, max_calls=0)(make_unit)
        shared = ray.put(job)
        running: dict[Any, tuple[WorkUnit, float]] = {}  # Ray's references have no type of their own
        while queue or running:
            while queue and len(running) < _slots(job):
                unit = queue.popleft()
                running[task.remote(shared, unit)] = unit, time.monotonic()
            ended, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_SECONDS)
            for reference in ended:
                unit, began = running.pop(reference)
                try:
                    outcome: UnitOutcome = ray.get(reference)
                except RayError as error:
                    late = options.unit_seconds is not None and time.monotonic() - began > options.unit_seconds
                    said = str(error).strip().splitlines()[-1 if isinstance(error, RayTaskError) else 0]  # after a traceback
                    reason = f"it took longer than {options.unit_seconds} s." if late else said
                    outcome = UnitOutcome(AGAIN, reason)
                yield unit, outcome
            for reference, (_, began) in running.items():
                if options.unit_seconds is not None and time.monotonic() - began > options.unit_seconds:
                    ray.cancel(reference, force=True)
    finally:
        if started:
            ray.shutdown()


def _connect(address: str | None) -> None:
    where = address or os.environ.get("RAY_ADDRESS") or None
    try:
        ray.init(address=where, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        at = f"at {where}" if where else "on this machine"
        raise UserError(
            f"Ray could not be reached {at} ({' '.join(str(error).split())[:200]}); start one with `ray start --head`, or set "
            "executor_options.address to that of a cluster that runs."
        ) from error


def _slots(job: UnitJob) -> int:
    """Returns how many units the cluster, as large as it is now, holds at once.

    Raises:
      UserError: none.
    """
    options, there = job.settings.executor_options, ray.cluster_resources()
    asked = {"CPU": options.cpus, "GPU": options.gpus}
    fits = min(int(there.get(name, 0) / amount) for name, amount in asked.items() if amount)
    if not fits:
        shown = ", ".join(f"{there.get(name, 0):g} {name}" for name in asked)
        raise UserError(
            f"a unit asks for {options.cpus:g} CPU and {options.gpus:g} GPU, but the Ray cluster has {shown}; lower "
            "executor_options.cpus or .gpus, or start a node that has them."
        )
    return min(fits, options.workers or fits)
