"""bridgejax inside programs that forbid JAX's implicit conversions and turn warnings into errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_backbones
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
STRICT = {"JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_TRANSFER_GUARD": "disallow"}


def python(*arguments: object, **changes: str) -> str:
    """Runs Python with warnings as errors and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **changes},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_functions_work_and_give_the_numbers_of_a_plain_jax(tmp_path, tiny_generator):
    """The kind: all functions that users call and that compute: loading, training, evaluating, resetting, saving, generating,
    identities, features and distances, under rank promotion "raise", dtype promotion "strict" and transfer guard "disallow"."""
    backbone = small_backbones.write_backbone("transformers resnet", tmp_path / "backbone")
    clip = small_backbones.write_clip(tmp_path / "clip")
    program, folders = Path(__file__).with_name("strict_program.py"), (tiny_generator, backbone, clip)
    strict = python(program, *folders, tmp_path / "strict", **STRICT)
    plain = python(program, *folders, tmp_path / "plain")
    assert strict == plain
    assert len(strict.splitlines()) == 3 + 9 + 6 + 1


def test_commands_work(tmp_path, tiny_generator):
    """The kind: commands that compute, in processes whose environment is strict: generation, filter, training, report and the
    learning of a token."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "task" / name).mkdir(parents=True)
        for image in range(4):
            pixels = np.random.default_rng([number, image]).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "task" / name / f"{image}.png")
    weights = small_backbones.write_backbone("transformers resnet", tmp_path / "weights")
    config = tmp_path / "config.py"
    config.write_text(
        "from bridgejax.config import default_config\n"
        "def get_config(arg=None):\n"
        "    config = default_config()\n"
        f"    config.task.source, config.task.shots = 'folder:{tmp_path / 'task'}', 2\n"
        f"    config.generator.weights, config.classifier.weights = '{tiny_generator}', '{weights}'\n"
        "    config.synthetic.per_class = config.generator.steps = config.generator.batch_size = 2\n"
        "    config.training.batch_size, config.training.base_steps, config.training.evaluations = 4, 2, 1\n"
        "    config.classifier.image_size = 32\n"
        "    config.inversion.steps = config.inversion.batch_size = 2\n"
        "    config.inversion.initial = 'random'\n"
        "    config.arms, config.study.baseline, config.study.seeds = ('bridged',), 'bridged', 1\n"
        "    return config\n"
    )
    for command in ("run", "invert"):
        printed = python("-m", "bridgejax", command, "--config", config, "--workdir", tmp_path / command, **STRICT)
        assert re.search(str(tmp_path / command), printed)
    python("-m", "bridgejax", "doctor", "--config", config, **STRICT)
    pytest.importorskip("bridgejax.diffusion.import_weights")
    python("-m", "bridgejax", "import-weights", tiny_generator, "--output", tmp_path / "copy", **STRICT)
