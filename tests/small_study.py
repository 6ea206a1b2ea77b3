"""A study of seconds: two classes of six coloured pictures each, a random generator, one arm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

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
    config.study.seeds = {seeds}
    return config
"""


def write_study(root: Path, generator: Path, seeds: int) -> Path:
    """Writes the task and the config below a folder; returns the config's file."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red things", "green things")):
        (root / "task" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 120, (32, 32, 3), np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(root / "task" / name / f"{number}.png")
    file = root / "config.py"
    file.write_text(CONFIG.format(task=root / "task", generator=generator, seeds=seeds))
    return file
