"""One shard or one run alone: the same bytes, whoever makes it, in whichever order, twice and at once."""

from __future__ import annotations

import shutil
import threading

import pytest

from bridgejax.cli import main
from bridgejax.config import Settings, load_config
from bridgejax.errors import TryAgain, UserError
from bridgejax.executors import run_one, run_shard


@pytest.fixture
def work(config_file, tmp_path, capfd):
    """Runs `bridgejax work` on a fresh workdir and returns its exit code, output and errors."""

    def call(*words: object, workdir=tmp_path / "work") -> tuple[int, str, str]:
        code = main(["work", *map(str, words), "--config", str(config_file), "--workdir", str(workdir)])
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def settings(config_file):
    return Settings.of(load_config(str(config_file)))


def test_units_in_any_order_make_what_one_process_makes(work, config_file, tmp_path, assert_same_work):
    workdir = tmp_path / "work"
    for shard in (3, 1, 1, 0):
        assert work("shard", shard)[0] == 0
    code, _, errors = work("run", 1)
    assert code == 75  # a scheduler tries again
    assert "lacks shards that run 1" in errors
    listed = work("list")[1].splitlines()
    assert listed[:4] == [f"shard {k}  synthetic {k}  {'missing' if k == 2 else 'done'}" for k in range(4)]
    assert listed[5].endswith("seed-1  missing")
    assert work("shard", 2, 3)[1].splitlines() == ["shard 2: made", "shard 3: was there"]
    assert work("run", 1, 0)[0] == 0
    before = [path.read_bytes() for path in workdir.rglob("result.json")]
    assert work("run", 0)[1].strip() == "run 0: was there"
    assert main(["study", "--config", str(config_file), "--workdir", str(workdir)]) == 0
    assert [path.read_bytes() for path in workdir.rglob("result.json")] == before  # gathered, not trained again
    assert_same_work(workdir)


def test_two_processes_on_one_unit_leave_it_as_one_would(settings, config_file, local, tmp_path, assert_same_work):
    workdir = tmp_path / "work"
    shutil.copytree(local, workdir)
    (workdir / "results.jsonl").unlink()
    for damaged in (workdir / "synthetic").glob("*tfrecord-00001"):
        damaged.write_bytes(damaged.read_bytes()[:-9])
    for record in workdir.rglob("result.json"):
        if "seed-1" in str(record):
            record.unlink()
    made: list[object] = []

    def call(function, number):
        try:
            made.append(function(settings, workdir, number))
        except TryAgain as error:  # both wrote at once
            made.append(error)

    for function, number in ((run_shard, 1), (run_one, 1)):
        calls = [threading.Thread(target=call, args=(function, number)) for _ in range(2)]
        for each in calls:
            each.start()
        for each in calls:
            each.join()
        assert True in made, made
        made.clear()
        assert function(settings, workdir, number) is False
    assert main(["study", "--config", str(config_file), "--workdir", str(workdir)]) == 0
    assert_same_work(workdir)


def test_what_is_no_unit_is_refused_for_good(work, settings, tmp_path):
    code, _, errors = work("shard", 4)
    assert code == 2
    assert errors.splitlines()[-1] == (
        "bridgejax: shard 4 is not one of the 4 of this config; `bridgejax work list` counts them from 0."
    )
    assert work("run")[0] == 2
    assert work("list", 1)[0] == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    with pytest.raises(UserError, match=r"holds files but no config\.json"):
        run_shard(settings, tmp_path / "other", 0)


def test_a_full_disk_may_be_tried_again(settings, tmp_path, monkeypatch):
    import errno
    import os

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run_shard(settings, tmp_path / "work", 0)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TryAgain, match="No space left on device"):
        run_shard(settings, tmp_path / "work", 1)
    monkeypatch.undo()
    assert run_shard(settings, tmp_path / "work", 1)
    assert not [path for path in (tmp_path / "work").rglob(".tmp*")]
