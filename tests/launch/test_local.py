"""Several processes on one machine: one set, one study, whatever their number and whoever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "launch" / "local.sh"
# PNGs hold whole numbers: sums in another order may turn a rounding, no more.
PIXEL_TOLERANCE = 1


def start(*words: object, **variables: object) -> subprocess.Popen:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHON": sys.executable, **{k: str(v) for k, v in variables.items()}}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [*map(str, words)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=500)
    return process.returncode, output, errors


def children(process: subprocess.Popen) -> list[int]:
    """The launcher's Python processes, in the order in which they were started."""
    found = []
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the launcher's own short ones come and go
            if b"bridgejax" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return sorted(found)


def records(workdir: Path) -> list[dict]:
    from bridgejax.synthesis import open_set

    return list(open_set(workdir / "synthetic"))


def assert_same_sets(left: Path, right: Path) -> None:
    ours, theirs = records(left), records(right)
    assert len(ours) == len(theirs) == 16
    for a, b in zip(ours, theirs, strict=True):
        assert {k: a[k] for k in a if k != "image"} == {k: b[k] for k in b if k != "image"}
        difference = np.abs(a["image"].astype(int) - b["image"].astype(int))
        assert difference.max() <= PIXEL_TOLERANCE


def leftovers(workdir: Path) -> list[str]:
    return [
        path.name for path in workdir.rglob("*") if path.name.startswith((".", "tmp")) or "orbax-checkpoint-tmp" in path.name
    ]


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("sleep 1; exit 2", "kill -ABRT $$", 2),  # the end of the first made JAX abort the second, and was seen later
        ("exit 2", "kill -ABRT $$", 2),
        ("kill -ABRT $$", "exec sleep 50", 128 + signal.SIGABRT),
        ("exit 1", "kill -KILL $$", 128 + signal.SIGKILL),
        ("exec sleep 50", "exit 3", 3),
        ("exit 75", "sleep 1; exit 2", 2),  # the first had waited for the second
        ("exit 75", "exec sleep 50", 75),
        ("exit 0", "sleep 0.5; exit 0", 0),
    ],
)
def test_the_exit_code_is_that_of_the_one_that_failed(tmp_path, first, second, code):
    began = time.monotonic()
    assert finish(start(LOCAL, 2, 1, "doctor", PYTHON=stand_in(tmp_path, first, second)))[0] == code
    assert time.monotonic() - began < 30  # the sleeper is not waited for


def stand_in(folder: Path, first: str, second: str) -> Path:
    """Writes a program in Python's place that runs one of two commands by the process's number; returns it."""
    program = folder / "python"
    program.write_text(
        f'#!/usr/bin/env bash\n[[ "$1" == -c ]] && exec {sys.executable} "$@"\n'
        f'if [[ "$BRIDGEJAX_PROCESS_ID" == 0 ]]; then {first}; else {second}; fi\n'
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("code", [75, 0])
def test_a_signal_to_the_launcher_reaches_all_and_none_is_cut_short(tmp_path, number, code):
    works = "while :; do sleep 0.1; done"
    saves = f"trap 'sleep 6; touch {tmp_path}/saved; exit {code}' {number.name}; touch {tmp_path}/up; {works}"
    ends = f"trap 'exit {code}' {number.name}; touch {tmp_path}/up2; {works}"
    process = start(LOCAL, 2, 1, "train", PYTHON=stand_in(tmp_path, saves, ends))
    while not ((tmp_path / "up").exists() and (tmp_path / "up2").exists()):
        time.sleep(0.01)
    process.send_signal(number)
    assert finish(process) == (code, "", "")
    assert (tmp_path / "saved").exists()


def test_a_process_that_a_signal_ends_before_it_listens_is_to_be_started_again(tmp_path):
    process = start(LOCAL, 2, 1, "train", PYTHON=stand_in(tmp_path, f"touch {tmp_path}/up; exec sleep 50", "exec sleep 50"))
    while not (tmp_path / "up").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 75


@pytest.fixture(scope="module")
def alone(tmp_path_factory, config_file):
    """The set that one process with one device makes."""
    workdir = tmp_path_factory.mktemp("alone") / "work"
    code, _, errors = finish(
        start(sys.executable, "-m", "bridgejax", "generate", "--config", config_file, "--workdir", workdir)
    )
    assert code == 0, errors
    return workdir


def test_two_processes_of_four_devices_make_the_set_of_one(alone, config_file, tmp_path):
    workdir = tmp_path / "work"
    code, output, errors = finish(start(LOCAL, 2, 4, "generate", "--config", config_file, "--workdir", workdir))
    assert code == 0, errors
    assert output.split() == [str(workdir / "synthetic")]  # said once
    assert_same_sets(alone, workdir)
    assert leftovers(workdir) == []
    sidecars = sorted(path.name for path in (workdir / "synthetic" / "sidecars").iterdir())
    assert sidecars == [f"{shard:05d}.json" for shard in range(4)]
    assert json.loads((workdir / "seconds.json").read_text())["generate"] > 0


def test_killed_processes_are_replaced_by_another_number(alone, config_file, tmp_path):
    workdir = tmp_path / "work"
    command = ("generate", "--config", config_file, "--workdir", workdir)
    process = start(LOCAL, 2, 2, *command)
    sidecars = workdir / "synthetic" / "sidecars"
    limit = time.monotonic() + 300
    while not list(sidecars.glob("*.json")) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()
    _, second = children(process)
    os.kill(second, signal.SIGKILL)
    code, _, errors = finish(process)
    assert code == 128 + signal.SIGKILL, errors
    assert not (workdir / "synthetic" / "dataset_info.json").exists()
    before = {path: path.stat().st_mtime_ns for path in sidecars.glob("*.json")}
    code, _, errors = finish(start(LOCAL, 3, 1, *command))
    assert code == 0, errors
    assert_same_sets(alone, workdir)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in sidecars.glob("*.json")}.items()
    assert leftovers(workdir) == []


@pytest.mark.slow
def test_a_study_of_two_processes_ends_with_the_numbers_of_one(config_file, tmp_path):
    """On the same images, so that only sums in another order can make a difference.

    How much that is, one process with four devices shows: it adds up the same four parts of every batch. 16 times its distance
    from one device leaves room for the spread of a maximum over a few numbers, as in the comparisons with PyTorch.
    """
    study = ("run", "--config", config_file, "--workdir")
    code, _, errors = finish(start(sys.executable, "-m", "bridgejax", *study, tmp_path / "one"))
    assert code == 0, errors
    for name in ("four", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "one" / "config.json", tmp_path / name)
        shutil.copytree(tmp_path / "one" / "synthetic", tmp_path / name / "synthetic")
    code, _, errors = finish(start(LOCAL, 1, 4, *study, tmp_path / "four"))
    assert code == 0, errors
    code, output, errors = finish(start(LOCAL, 2, 2, *study, tmp_path / "two"))
    assert code == 0, errors
    assert output.split() == [str(tmp_path / "two" / "report.html")]
    assert leftovers(tmp_path / "two") == []
    one, four, two = (json.loads((tmp_path / name / "results.jsonl").read_text()) for name in ("one", "four", "two"))
    for key in ("arm", "seed", "train_steps", "test_ids", "test_labels"):
        assert two[key] == one[key]

    def numbers(result: dict) -> np.ndarray:
        return np.array([*(entry["loss"] for entry in result["history"] if "loss" in entry), result["test_loss"]])

    rounding = np.abs(numbers(four) - numbers(one)).max()
    assert rounding < 1e-3
    assert np.abs(numbers(two) - numbers(one)).max() <= 16 * rounding + 1e-6


@pytest.mark.slow
def test_the_quick_start_of_two_processes_with_four_devices_each_ends_with_the_numbers_of_one(tmp_path):
    words = ("run", "--config", f"{ROOT}/configs/quickstart.py:1", "--config.study.seeds=1", "--config.synthetic.per_class=8")
    for name, launcher in (("one", (sys.executable, "-m", "bridgejax")), ("two", (LOCAL, 2, 4))):
        code, output, errors = finish(start(*launcher, *words, "--workdir", tmp_path / name))
        assert code == 0, errors
        assert output.split() == [str(tmp_path / name / "report.html")]
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "results.jsonl").read_text().splitlines()] for name in ("one", "two")
    )
    assert [line["arm"] for line in two] == [line["arm"] for line in one] == ["vanilla_long", "mixed_50", "bridged"]
    for ours, theirs in zip(one, two, strict=True):
        assert ours["test_ids"] == theirs["test_ids"]
        # An image between two classes may fall to the other one, no more.
        assert abs(ours["test_accuracy"] - theirs["test_accuracy"]) <= 1.5 / ours["test_images"]
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-3)


@pytest.mark.slow
def test_processes_learn_the_word_of_one_though_one_is_killed(config_file, tmp_path):
    settings = ("steps=40", "batch_size=2", "checkpoint_every=1", "initial=random")
    options = [f"--config.inversion.{setting}" for setting in settings]
    command = ("invert", "--config", config_file, *options, "--workdir")
    code, output, errors = finish(start(sys.executable, "-m", "bridgejax", *command, tmp_path / "one"))
    assert code == 0, errors
    process = start(LOCAL, 2, 1, *command, tmp_path / "two")
    limit = time.monotonic() + 300
    while not list((tmp_path / "two").rglob("*.checkpoint.npz")) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()
    os.kill(children(process)[0], signal.SIGKILL)
    code, _, errors = finish(process)
    assert code == 128 + signal.SIGKILL, errors
    assert not list((tmp_path / "two").rglob("inversion.json"))
    code, output, errors = finish(start(LOCAL, 3, 1, *command, tmp_path / "two"))
    assert code == 0, errors
    folder = Path(output.strip())
    assert folder.is_relative_to(tmp_path / "two")  # said once
    one, two = (tmp_path / name / folder.relative_to(tmp_path / "two") for name in ("one", "two"))
    assert (one / "learned_embeds.safetensors").read_bytes() == (two / "learned_embeds.safetensors").read_bytes()
    assert sorted(path.name for path in two.rglob("*")) == sorted(path.name for path in one.rglob("*"))
    assert leftovers(tmp_path / "two") == []


def test_a_wrong_input_is_reported_once_and_ends_all(config_file, tmp_path):
    words = ("generate", "--config", config_file, "--config.mesh=(('data',3),('model',2))", "--workdir", tmp_path / "work")
    code, output, errors = finish(start(LOCAL, 2, 2, *words))
    assert code == 2
    assert output == ""
    assert [line for line in errors.splitlines() if line.startswith("bridgejax:")] == [
        "bridgejax: mesh data=3, model=2 does not fit 4 devices; make the sizes multiply to 4, for instance data=2, model=2, "
        "or use -1 for one."
    ]
    assert "Traceback" not in errors
    assert finish(start(LOCAL, 0, 2, "doctor"))[0] == 2
