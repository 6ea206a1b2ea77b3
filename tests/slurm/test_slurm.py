"""On a real SLURM: an array by the executor and by launch/slurm.sbatch, tasks queued again, and one program of two tasks."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 900.0  # seconds
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for a condition."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.5)


def ask_to_stop(ask: Callable[[], object], heard: Callable[[], bool]) -> None:
    """Sends a signal, again every ten seconds until it has been heard: a busy slurmd drops some."""
    end = time.monotonic() + LIMIT
    while not heard():
        assert time.monotonic() < end, "nobody heard the signal"
        ask()
        for _ in range(20):
            if heard():
                return
            time.sleep(0.5)


def test_an_array_goes_on_after_a_task_is_asked_to_stop(cluster, shell, config_file, tmp_path, local, assert_same_work):
    workdir = tmp_path / "work"
    words = ["study", "--config", str(config_file), "--workdir", str(workdir), "--config.executor=slurm"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bridgejax", *words, "--config.executor_options.workers=2"],
        env=cluster,
        stderr=subprocess.PIPE,
        text=True,
    )
    logs = workdir / "slurm"
    until(
        lambda: process.poll() is not None or any("units" in log.read_text() for log in logs.glob("*_log.err")), "no task works"
    )
    shell("squeue", "--array", "--format=%i %T %r")
    first = next(log for log in logs.glob("*_log.*") if "units" in log.read_text())
    task = re.match(r"(\d+_\d+)", first.name)
    assert task is not None

    def again() -> bool:
        return any("Requeued job" in log.read_text() for log in logs.glob("*_log.*"))

    ask_to_stop(lambda: shell("scancel", "--signal=TERM", task[1]), again)
    shell("squeue", "--array", "--format=%i %T %r")
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert_same_work(workdir)


def test_the_batch_script_makes_all_shards_though_one_task_is_stopped(shell, config_file, tmp_path, local):
    workdir = tmp_path / "work"
    submitted = shell(
        *(
            "sbatch",
            "--array=0-3%2",
            "--cpus-per-task=1",
            f"--output={tmp_path}/task-%a.log",
            f"--export=ALL,PYTHON={sys.executable}",
        ),
        *(ROOT / "launch" / "slurm.sbatch", "shard", "--config", config_file, "--workdir", workdir),
    )
    job = re.search(r"\d+", submitted)
    assert job is not None
    until(lambda: f"{job[0]}_1 R" in shell("squeue", "--array", "--format=%i %t"), "the task did not begin")
    time.sleep(2.0)
    log = tmp_path / "task-1.log"
    ask_to_stop(
        lambda: shell("scancel", "--batch", "--signal=TERM", f"{job[0]}_1"),
        lambda: log.exists() and "queued" in log.read_text(),
    )
    until(lambda: not shell("squeue", "--noheader", "--array", f"--jobs={job[0]}", "--states=PD,R,CG,CF"), "it does not end")
    for name in ("dataset_info.json", "sidecars/00001.json", "sidecars/00003.json"):
        assert (workdir / "synthetic" / name).read_bytes() == (local / "synthetic" / name).read_bytes()


def test_two_tasks_are_one_program(shell, config_file, tmp_path, local):
    workdir = tmp_path / "work"
    begin = "export BRIDGEJAX_COORDINATOR=127.0.0.1:47391 BRIDGEJAX_PROCESSES=$SLURM_NTASKS BRIDGEJAX_PROCESS_ID=$SLURM_PROCID"
    command = f"{sys.executable} -m bridgejax generate --config {config_file} --workdir {workdir}"
    printed = shell("srun", "--ntasks=2", "bash", "-c", f"{begin}; {command}")
    assert printed.split() == [str(workdir / "synthetic")]  # said once
    for path in (local / "synthetic" / "sidecars").iterdir():
        assert (workdir / "synthetic" / "sidecars" / path.name).read_bytes() == path.read_bytes()
