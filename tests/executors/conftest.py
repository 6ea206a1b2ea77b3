"""A config of a tiny generator, task and study, and the workdir that one process makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgejax.cli import main

CONFIG = """
from bridgejax.config import default_config

def get_config(arg=None):
    config = default_config()
    config.task.source = "folder:{task}"
    config.task.shots = 2
    config.generator.weights = "{generator}"
    config.generator.steps = 2
    config.generator.guidance_scale = 2.0
    config.generator.batch_size = 4
    config.synthetic.per_class = 8
    config.synthetic.shard_size = 4
    config.classifier.image_size = 32
    config.training.batch_size = 8
    config.training.eval_batch_size = 16
    config.training.base_steps = 3
    config.training.evaluations = 1
    config.training.checkpoint_seconds = 0.0
    config.arms = ("bridged_plus_plus",)
    config.study.baseline = "bridged_plus_plus"
    config.study.seeds = 2
    return config
"""


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory, tiny_generator: Path) -> Path:
    """Two classes of six coloured pictures each, and a random generator."""
    root = tmp_path_factory.mktemp("executors")
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red things", "green things")):
        (root / "task" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 120, (32, 32, 3), np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(root / "task" / name / f"{number}.png")
    file = root / "config.py"
    file.write_text(CONFIG.format(task=root / "task", generator=tiny_generator))
    return file


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
