"""`task.source=classes`: images from class names alone; what needs real images is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridgejax.cli import main
from bridgejax.synthesis import open_set

CLASSES = ["--config.task.source=classes", "--config.task.class_names=apple,cup"]


def test_a_set_is_generated_without_a_real_image(config_file: Path, tmp_path: Path):
    few = ["--config.synthetic.per_class=2", "--config.synthetic.shard_size=4"]
    assert main(["generate", "--config", str(config_file), "--workdir", str(tmp_path / "work"), *CLASSES, *few]) == 0
    rows = list(open_set(tmp_path / "work" / "synthetic"))
    assert sorted(row["prompt"] for row in rows) == ["a photo of a apple"] * 2 + ["a photo of a cup"] * 2


@pytest.mark.parametrize("command", ["run", "study", "train", "tune", "invert"])
def test_training_on_it_is_refused_before_anything_is_written(capfd, config_file: Path, tmp_path: Path, command: str):
    validation = "--config.task.validation_per_class=1"
    arguments = [command, "--config", str(config_file), "--workdir", str(tmp_path / "work"), *CLASSES, validation]
    assert main(arguments) == 2
    assert "task.source is 'classes', which has no real images" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
