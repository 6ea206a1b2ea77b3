"""A config of a tiny generator and task, and what a synthetic set holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

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
    config.study.seeds = 1
    return config
"""


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory, tiny_generator: Path) -> Path:
    """Two classes of six coloured pictures each, and a random generator."""
    root = tmp_path_factory.mktemp("launch")
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
