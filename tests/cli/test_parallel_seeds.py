"""`study.parallel_seeds`: the seeds of an arm at once give the results of one by one, also when killed half-way."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from bridgejax.cli import main

SMALL = ("--config.arms=('vanilla_long', 'real_reset_real')", "--config.study.seeds=3")


def results(workdir: Path) -> list[dict]:
    lines = map(json.loads, (workdir / "results.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def run(config_file: Path, workdir: Path, *more: str) -> int:
    return main(["run", "--config", str(config_file), *SMALL, *more, "--workdir", str(workdir)])


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory, config_file) -> list[dict]:
    workdir = tmp_path_factory.mktemp("one_by_one") / "work"
    assert run(config_file, workdir) == 0
    return results(workdir)


@pytest.mark.parametrize("at_once", ["auto", "2"])
def test_results_are_those_of_one_by_one(one_by_one, config_file, tmp_path, at_once):
    assert run(config_file, tmp_path / "work", f"--config.study.parallel_seeds={at_once}") == 0
    assert results(tmp_path / "work") == one_by_one
    assert not [path.name for path in (tmp_path / "work").rglob("checkpoints")]


@pytest.mark.slow
def test_a_killed_group_goes_on_and_one_by_one_takes_it_up(one_by_one, config_file, command, tmp_path):
    workdir = tmp_path / "work"
    given = ["run", "--config", config_file, *SMALL, "--workdir", workdir]
    process = command(*given, "--config.study.parallel_seeds=auto")
    limit = time.monotonic() + 300
    while not list(workdir.glob("runs/real_reset_real/*/checkpoints/*")) and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert run(config_file, workdir) == 0  # study.parallel_seeds decides no result
    assert results(workdir) == one_by_one


@pytest.mark.parametrize("at_once", ["1", "auto"])
def test_a_seed_that_diverges_is_named(config_file, tmp_path, capsys, at_once):
    more = ("--config.arms=vanilla_long", "--config.training.learning_rate=1e30", f"--config.study.parallel_seeds={at_once}")
    assert run(config_file, tmp_path / "work", *more) == 2
    assert "training with seed 0 diverged: the " in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("value", ["0", "many", "1.5"])
def test_a_wrong_number_gets_one_sentence(config_file, tmp_path, capsys, value):
    assert run(config_file, tmp_path / "work", f"--config.study.parallel_seeds={value}") == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert "study.parallel_seeds is" in errors[0]
