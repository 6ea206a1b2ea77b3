"""Which processes of a command there are, by the environment of each launcher, and that they agree."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bridgejax import runtime
from bridgejax.errors import UserError

PROGRAM = Path(__file__).with_name("place_program.py")
SPLIT = Path(__file__).with_name("split_program.py")
LOSSES = Path(__file__).with_name("loss_program.py")
SLURM = {"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (SLURM, ("SLURM", 1, 2)),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # a batch script, outside of srun
        ({**SLURM, "BRIDGEJAX_PROCESSES": "1"}, None),
        (
            {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://h:1", "OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "2"},
            ("Open MPI", 2, 3),
        ),
        (KUBERNETES, ("Kubernetes", 3, None)),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "2"}, ("TPU metadata", 2, 4)),
        (
            {**SLURM, "BRIDGEJAX_COORDINATOR": "h:1", "BRIDGEJAX_PROCESSES": "8", "BRIDGEJAX_PROCESS_ID": "5"},
            ("BRIDGEJAX_COORDINATOR=h:1", 5, 8),
        ),
    ],
)
def test_each_launcher_is_known_by_its_environment(monkeypatch, variables, expected):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "JOB_", "BRIDGEJAX_P", "BRIDGEJAX_CO")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = runtime.place()
    assert (None if found is None else (found.launcher, found.process, found.processes)) == expected
    assert runtime.is_first() is (expected is None)


def test_a_wrong_variable_gets_one_sentence_and_a_pod_without_its_package_works_alone(monkeypatch, capsys):
    monkeypatch.setenv("BRIDGEJAX_COORDINATOR", "h:1")
    with pytest.raises(UserError, match="BRIDGEJAX_PROCESSES is ''"):
        runtime.place()
    monkeypatch.delenv("BRIDGEJAX_COORDINATOR")
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("BRIDGEJAX_PROCESSES", "")
    runtime._join()
    assert runtime.place() is None
    assert "found by the package `kubernetes`" in capsys.readouterr().err


def together(
    arguments: list[list[str]], variables: list[dict[str, str]], program: Path = PROGRAM
) -> list[tuple[int, str, list[str]]]:
    """Starts a process for each entry; returns their exit codes, outputs and sentences."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment = {**own, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(PROGRAM.parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), *words],
            env={**environment, **each},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words, each in zip(arguments, variables, strict=True)
    ]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in processes]
    return [
        (code, output, [line for line in errors.splitlines() if line.startswith("bridgejax")]) for output, errors, code in ended
    ]


def own_variables(count: int) -> list[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"BRIDGEJAX_COORDINATOR": f"127.0.0.1:{port}", "BRIDGEJAX_PROCESSES": str(count)}
    return [{**shared, "BRIDGEJAX_PROCESS_ID": str(number)} for number in range(count)]


@pytest.mark.multiprocess
def test_tasks_of_a_slurm_step_join_by_themselves():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    step = {**SLURM, "SLURM_JOB_ID": "7", "SLURM_LOCALID": "0", "JAX_COORDINATOR_PORT": port}
    ended = together([["a=1"], ["a=1"]], [{**step, "SLURM_PROCID": str(number)} for number in range(2)])
    assert [(code, output) for code, output, _ in ended] == [(0, "0 of 2, first True\n"), (0, "1 of 2, first False\n")]


@pytest.mark.multiprocess
def test_processes_with_different_configs_are_refused_by_the_key():
    arguments = [["task=1", "training=2"], ["task=1", "training=3"]]
    (code, output, sentences), (other, _, _) = together(arguments, own_variables(2))
    assert (code, output) == (2, "")
    assert sentences == [
        "bridgejax: process 1 has another config.training than process 0; start all processes with the same file and the same "
        "--config.KEY=VALUE."
    ]
    assert other != 0


@pytest.mark.multiprocess
def test_a_state_split_over_processes_trains_and_goes_on_elsewhere(tmp_path):
    (code, told, sentences), (other, _, _) = together([[str(tmp_path)]] * 2, own_variables(2), SPLIT)
    assert (code, other) == (0, 0), sentences
    ((code, alone, sentences),) = together([[str(tmp_path)]], [{}], SPLIT)  # reads their checkpoint
    assert code == 0, sentences
    told, alone = json.loads(told), json.loads(alone)
    assert told["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    # A bias before the batch norm has no gradient but rounding.
    assert told["model"] == pytest.approx(alone["model"], rel=1e-5, abs=1e-6)
    assert alone["restored"] == pytest.approx(told["model"], rel=1e-6)
    assert told["bytes"] < 0.55 * alone["bytes"]
    assert told["ended"] == [True, False]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_one_two_and_four_processes_have_the_same_losses_replicated_and_split():
    def curves(processes: int) -> dict[str, list[float]]:
        ended = together([[]] * processes, own_variables(processes) if processes > 1 else [{}], LOSSES)
        assert [code for code, _, _ in ended] == [0] * processes, ended
        return json.loads(ended[0][1])

    alone = curves(1)
    assert len(alone["data"]) == 50
    assert alone["data"][-1] < 0.8 * alone["data"][0]
    for found in (alone, curves(2), curves(4)):
        for axis in ("data", "fsdp"):
            assert found[axis] == pytest.approx(alone["data"], rel=1e-5), axis
