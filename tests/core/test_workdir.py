"""The workdir's lock: one command at a time, and nothing of it left behind, however the command ends."""

from __future__ import annotations

import fcntl
import os

import pytest

from bridgejax.config import default_config, differences, to_plain
from bridgejax.errors import UserError
from bridgejax.workdir import open_workdir


@pytest.fixture(scope="module")
def config():
    return to_plain(default_config())


@pytest.mark.parametrize("error", [None, UserError, RuntimeError, KeyboardInterrupt])
def test_no_lock_file_stays(tmp_path, config, error):
    def work():
        with open_workdir(tmp_path / "work", config, differences):
            assert (tmp_path / "work" / ".lock").is_file()
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()
    assert [file.name for file in (tmp_path / "work").iterdir()] == ["config.json"]


def test_a_second_command_is_refused_and_leaves_the_lock_of_the_first(tmp_path, config):
    with open_workdir(tmp_path, config, differences):
        for _ in range(2):
            with pytest.raises(UserError, match="another command is at work"), open_workdir(tmp_path, config, differences):
                pass
        assert (tmp_path / ".lock").is_file()
    with open_workdir(tmp_path, config, differences):
        pass


def test_a_lock_on_a_file_that_its_owner_removed_keeps_nobody_out(tmp_path, config, monkeypatch):
    """The first command ends between the second one's opening of the file and its lock; a third comes after."""
    first = open_workdir(tmp_path, config, differences)
    first.__enter__()
    lock, ended = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not ended:
            ended.append(first.__exit__(None, None, None))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with open_workdir(tmp_path, config, differences):
        assert ended
        assert (tmp_path / ".lock").is_file()
        with pytest.raises(UserError, match="another command is at work"), open_workdir(tmp_path, config, differences):
            pass


def test_a_command_killed_while_it_wrote_the_first_file_is_continued(tmp_path, config):
    for name in (".lock", ".tmp-config.json.0123abcd"):
        (tmp_path / name).touch()
    with open_workdir(tmp_path, config, differences):
        pass
    assert os.listdir(tmp_path) == ["config.json"]
