"""Worker processes of this machine, by `concurrent.futures`; one that is killed is replaced, and its unit tried again."""

from __future__ import annotations

import collections
import concurrent.futures as futures
import multiprocessing as mp
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from tqdm import tqdm

from bridgejax.executors.unit_calls import AGAIN, UnitJob, UnitOutcome, make_unit
from bridgejax.studies.work_units import WorkUnit

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

_DEFAULT_WORKERS = 2  # where there is no GPU: one computes while the other compresses and writes
_LOOK_SECONDS = 1.0
_KILLED = "a worker process was killed."


def engine(job: UnitJob, queue: collections.deque[WorkUnit]) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
    """Carries out units; see `bridgejax.executors.hand_out.Engine`. Each of the machine's GPUs gets a worker of its own."""
    gpus = _gpus()
    workers = job.settings.executor_options.workers or len(gpus) or _DEFAULT_WORKERS
    while queue:  # one pool after the other: a killed worker breaks the one it was in
        before = set(mp.active_children())
        context = mp.get_context("spawn")
        devices: SimpleQueue[str] = context.SimpleQueue()
        for number in range(workers):
            devices.put(gpus[number % len(gpus)] if gpus else "")
        pool = futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(devices,))
        try:
            yield from _in_pool(job, queue, pool, workers, before)
        finally:
            _kill(before)
            pool.shutdown(wait=False, cancel_futures=True)


def _in_pool(
    job: UnitJob, queue: collections.deque[WorkUnit], pool: futures.ProcessPoolExecutor, workers: int, before: set[BaseProcess]
) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
    """Carries out units until none is left or the pool is broken."""
    limit = job.settings.executor_options.unit_seconds
    running: dict[futures.Future[UnitOutcome], tuple[WorkUnit, float]] = {}
    broken = False
    futures.wait([pool.submit(os.getpid) for _ in range(workers)])  # the time to start is none of a unit's
    while running or (queue and not broken):
        while queue and len(running) < workers and not broken:
            unit = queue.popleft()
            try:
                running[pool.submit(make_unit, job, unit)] = unit, time.monotonic()
            except BrokenProcessPool:
                broken = True
                yield unit, UnitOutcome(AGAIN, _KILLED)
        ended, _ = futures.wait(running, timeout=_LOOK_SECONDS, return_when=futures.FIRST_COMPLETED)
        for future in ended:
            unit, began = running.pop(future)
            try:
                outcome = future.result()
            except BrokenProcessPool:
                broken = True
                late = limit is not None and time.monotonic() - began > limit
                outcome = UnitOutcome(AGAIN, f"it took longer than {limit:g} s." if late else _KILLED)
            yield unit, outcome
        if limit is not None and any(time.monotonic() - began > limit for _, began in running.values()):
            _kill(before)


def _kill(before: set[BaseProcess]) -> None:
    """Ends the workers: all child processes but those that were there before."""
    for child in set(mp.active_children()) - before:
        child.kill()


def _gpus() -> list[str]:
    """Returns the numbers of the NVIDIA GPUs that this process may use."""
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not shutil.which("nvidia-smi"):
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name]
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return [str(number) for number in range(len(listed.stdout.splitlines()))]


def _start_worker(devices: SimpleQueue[str]) -> None:
    """Gives a worker its GPU, and has it end when the process that hands out the work ends."""
    if gpu := devices.get():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    tqdm.set_lock(threading.RLock())  # its own would be left over as a semaphore where a worker is killed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    parent = mp.parent_process()
    if parent is not None:

        def end_with(sentinel: int) -> None:
            wait([sentinel])
            os._exit(1)

        threading.Thread(target=end_with, args=(parent.sentinel,), daemon=True).start()
