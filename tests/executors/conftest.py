"""A config of a tiny generator, task and study, and the workdir that one process makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bridgejax.cli import main
from tests.small_study import write_study


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory, tiny_generator: Path) -> Path:
    """Two classes of six coloured pictures each, and a random generator."""
    return write_study(tmp_path_factory.mktemp("executors"), tiny_generator, seeds=2)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory, config_file: Path) -> Path:
    """The workdir that the study in one process leaves."""
    workdir = tmp_path_factory.mktemp("local") / "work"
    assert main(["study", "--config", str(config_file), "--workdir", str(workdir)]) == 0
    return workdir


def _without_seconds(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_seconds(item) for key, item in value.items() if "seconds" not in key}
    return [_without_seconds(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def assert_same_work(local: Path) -> Callable[[Path], None]:
    """Compares a workdir with that of one process: the set byte for byte, results but for the time they took."""

    def compare(workdir: Path) -> None:
        sets = [
            {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            for folder in (local / "synthetic", workdir / "synthetic")
        ]
        assert sets[0] == sets[1]
        ours, theirs = (
            [_without_seconds(json.loads(line)) for line in (folder / "results.jsonl").read_text().splitlines()]
            for folder in (local, workdir)
        )
        assert ours == theirs
        names = [path.name for path in workdir.rglob("*")]
        assert not [name for name in names if name.startswith((".", "tmp")) or name == "checkpoints"]

    return compare
