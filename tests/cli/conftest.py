"""A small real task (scikit-learn's digits as PNG files) and a config that runs on it in seconds."""

from __future__ import annotations

import os
import subprocess
import sys
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
    config.arms = ("vanilla_long", "bridged_plus_plus")
    config.study.seeds = 2
    return config
"""

# `python -m bridgejax`; a shell's background jobs ignore Ctrl-C, and their children with them.
LAUNCH = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("bridgejax", run_name="__main__")
"""


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits, eight pictures each, as a person would keep them: one folder per class, awkward names included."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    root = tmp_path_factory.mktemp("digits")
    for digit, name in enumerate(("zero", "the number one", "zwölf & <b>2")):
        (root / name).mkdir()
        for number, image in enumerate(digits.images[digits.target == digit][:8]):
            pixels = np.uint8(255 - image * 255 / 16)
            Image.fromarray(pixels).resize((24, 24)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path, tiny_generator: Path) -> Path:
    """A config of two arms and two seeds over the digits and a random generator."""
    file = tmp_path_factory.mktemp("configs") / "digits.py"
    file.write_text(CONFIG.format(task=digits_folder, generator=tiny_generator))
    return file


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.Popen]:
    """Starts `python -m bridgejax …` in a process of its own, for tests that stop it half-way."""

    def start(*arguments: object) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )

    return start


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, config_file: Path) -> Path:
    """A workdir that one uninterrupted run made."""
    workdir = tmp_path_factory.mktemp("finished") / "work"
    assert main(["run", "--config", str(config_file), "--workdir", str(workdir)]) == 0
    return workdir
