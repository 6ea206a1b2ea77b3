"""Executors: whichever carries out the units, the results are those of one process; wrong inputs get one sentence."""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from bridgejax import progress
from bridgejax.cli import main
from bridgejax.config import Settings, load_config
from bridgejax.errors import UserError
from bridgejax.executors import UnitJob, UnitOutcome, make_unit, process_engine
from bridgejax.executors.hand_out import carry_out
from bridgejax.executors.unit_calls import AGAIN, DONE, WRONG
from bridgejax.studies.work_units import SHARD, WorkUnit

UNITS = [WorkUnit(SHARD, number) for number in range(4)]


@pytest.fixture
def settings(config_file):
    return Settings.of(load_config(str(config_file)))


@pytest.fixture
def study(config_file, tmp_path):
    """Runs the study with an executor and returns its exit code."""

    def call(executor: str, *options: str, workdir: Path = tmp_path / "work") -> int:
        words = ["study", "--config", str(config_file), "--workdir", str(workdir), f"--config.executor={executor}"]
        return main([*words, "--config.executor_options.workers=1", *options])

    return call


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def test_worker_processes_do_the_work_of_one_though_one_is_killed(study, tmp_path, assert_same_work, capfd):
    killed: list[int] = []

    def kill() -> None:
        sidecars = tmp_path / "work" / "synthetic" / "sidecars"
        while not list(sidecars.glob("*.json")) and not done.wait(0.01):
            pass
        for pid in children():
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    done = threading.Event()
    killer = threading.Thread(target=kill)
    killer.start()
    assert study("processes") == 0
    done.set()
    killer.join()
    assert killed
    assert "is tried again: a worker process was killed." in capfd.readouterr().err
    assert_same_work(tmp_path / "work")


def test_ray_does_the_work_of_one_process(study, tmp_path, assert_same_work):
    pytest.importorskip("ray", reason="Ray is not installed")
    assert study("ray", "--config.executor_options.cpus=1") == 0
    assert_same_work(tmp_path / "work")


def test_an_array_makes_shards_and_another_executor_goes_on(config_file, tmp_path, assert_same_work, study, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed")
    from bridgejax.executors import slurm_engine

    monkeypatch.setattr(slurm_engine, "_TASKS_PER_WORKER", 1)
    options = ("slurm.cluster=local", "workers=1")  # submitit's own stand-in for SLURM
    words = [f"--config.executor_options.{option}" for option in options]
    words += ["--config", str(config_file), "--workdir", str(tmp_path / "work"), "--config.executor=slurm"]
    assert main(["generate", *words]) == 0
    assert len(list((tmp_path / "work" / "slurm").glob("*_result.pkl"))) == 1  # four shards, one after the other
    assert study("local") == 0
    assert_same_work(tmp_path / "work")


def test_tries_are_counted_and_wrong_inputs_end_at_once(settings, tmp_path, capfd):
    job = UnitJob(settings, tmp_path)
    asked: list[WorkUnit] = []

    def engine(job: UnitJob, queue: collections.deque[WorkUnit]):
        while queue:
            unit = queue.popleft()
            asked.append(unit)
            code = outcomes[unit.number].pop(0)
            yield unit, UnitOutcome(code, "the disk is full.", "node-7")

    outcomes = {0: [DONE], 1: [AGAIN, AGAIN, DONE], 2: [DONE], 3: [AGAIN, DONE]}
    carry_out(engine, job, UNITS)
    assert len(asked) == 7
    outcomes = {0: [DONE], 1: [AGAIN] * 9, 2: [DONE], 3: [DONE]}
    with pytest.raises(UserError, match=r"^shard 1 failed 3 times, the last time on node-7: the disk is full\. What is done"):
        carry_out(engine, job, UNITS)
    outcomes = {0: [DONE], 1: [WRONG], 2: [], 3: []}
    with pytest.raises(UserError, match=r"^shard 1 on node-7: the disk is full\.$"):
        carry_out(engine, job, UNITS)


def test_a_unit_that_hangs_is_ended_and_tried_again(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(process_engine, "make_unit", _hang_once)
    options = dataclasses.replace(settings.executor_options, workers=1, unit_seconds=2.0)
    job = UnitJob(dataclasses.replace(settings, executor_options=options), tmp_path)
    queue = collections.deque(UNITS[:1])
    codes = []
    for unit, outcome in process_engine.engine(job, queue):
        codes.append(outcome.code)
        if outcome.code == AGAIN and len(codes) < 3:
            assert outcome.sentence == "it took longer than 2 s."
            queue.append(unit)
    assert codes == [AGAIN, DONE]


def test_a_worker_leaves_no_semaphore_of_a_bar():
    context = multiprocessing.get_context("spawn")
    devices = context.SimpleQueue()
    devices.put("")
    with ProcessPoolExecutor(1, context, process_engine._start_worker, (devices,)) as pool:
        assert pool.submit(_semaphores_of_a_bar).result() == []


def _semaphores_of_a_bar() -> list[str]:
    found: list[str] = []
    resource_tracker.register = lambda name, kind: found.append(name)
    with progress.progress(1, "train", "step") as bar:
        bar.update()
    return found


def _hang_once(job: UnitJob, unit: WorkUnit) -> UnitOutcome:
    first = not (job.workdir / "tried").exists()
    (job.workdir / "tried").touch()
    time.sleep(300 if first else 0)
    return UnitOutcome(DONE)


def test_a_worker_that_would_make_something_else_refuses(settings, local, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "quiet", False)  # a worker is quiet; this process should not stay so
    weights = {"classifier": "f" * 64}
    for job, sentence in (
        (UnitJob(settings, tmp_path / "not shared"), "is not there; put it on a file system that all machines see"),
        (UnitJob(settings, local, version="0.0.1"), "but 0.0.1 hands out the work; install the same"),
        (UnitJob(settings, local, weights=weights), "the classifier has other weights here"),
    ):
        outcome = make_unit(job, UNITS[0])
        assert outcome.code == WRONG
        assert sentence in outcome.sentence
    assert not (tmp_path / "not shared").exists()
    assert make_unit(UnitJob(settings, local), UNITS[0]).code == DONE


def test_an_engine_that_is_not_there_is_named(study, capfd, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert study("slurm") == 2
    installed = importlib.util.find_spec("submitit") is not None
    wanted = "run the command on a machine where `sbatch` and `srun` work" if installed else "pip install 'bridgejax[slurm]'"
    assert wanted in capfd.readouterr().err
    assert study("dask") == 2
    assert "executor is 'dask'; use 'local', 'processes', 'ray' or 'slurm'" in capfd.readouterr().err
