"""bridgejax inside programs that forbid JAX's implicit conversions and turn warnings into errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import small_backbones
from flax import nnx
from PIL import Image

from bridgejax.training import TrainState, make_eval_step, make_train_step

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
    assert len(strict.splitlines()) == 2 + 2 + 2 + 1


@pytest.mark.slow
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
    python("-m", "bridgejax", "import-weights", tiny_generator, "--output", tmp_path / "copy", **STRICT)


EXPLICIT = """
import contextlib
import jax, numpy as np, optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from bridgejax.training import TrainState, make_eval_step, make_train_step

class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.norm = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.drop, self.head = nnx.Dropout(0.1, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))

rng = np.random.default_rng(0)
batch = {"image": rng.normal(size=(8, 8, 8, 3)).astype(np.float32), "label": rng.integers(0, 3, 8).astype(np.int32)}
batch["mask"] = np.asarray([1] * 7 + [0], np.float32)
auto = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
explicit = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
for options in ({}, {"mixup_alpha": 0.2}):
    found = set()
    for way in ("auto", "explicit", "placed", "context"):
        mesh = auto if way == "auto" else explicit
        with jax.set_mesh(explicit) if way == "context" else contextlib.nullcontext():
            state, given = TrainState.create(Net(nnx.Rngs(0)), optax.sgd(0.1, momentum=0.9), seed=0), batch
            if way == "placed":
                given = {key: jax.device_put(value, NamedSharding(mesh, PartitionSpec("data"))) for key, value in batch.items()}
                state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
            step = make_train_step(mesh=mesh, **options)
            for _ in range(2):
                state, metrics = step(state, given)
            found.add((float(metrics["loss"]), float(make_eval_step(mesh=mesh)(state, given)["loss"])))
    assert len(found) == 1, found
"""


def test_an_explicit_mesh_gives_the_numbers_of_an_automatic_one():
    """The kind: meshes as `jax.make_mesh` makes them by default: given to a step, holding the batch and the state, and set
    around the call; with and without Mixup."""
    done = subprocess.run(
        [sys.executable, "-c", EXPLICIT],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


class Plain(nnx.Module):
    """A module as people write them, with settings in plain containers."""

    def __init__(self, rngs: nnx.Rngs, settings: object) -> None:
        self.settings = settings
        self.head = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(images.reshape(images.shape[0], -1))


@pytest.mark.parametrize(
    "settings",
    [{"width": 8}, ["a", "b"], {"nested": {"sizes": [1, 2]}}, [{"x": [1]}], {"activation": nnx.relu}, {1, 2}, bytearray(b"x")],
    ids=lambda value: type(value).__name__,
)
def test_modules_with_plain_attributes_train(settings):
    """The kind: attributes that Python cannot hash, in any user's module; two equal modules share a program."""
    batch = {"image": np.ones((2, 2, 2, 3), np.float32), "label": np.asarray([0, 2], np.int32)}
    step = make_train_step()
    losses = []
    for _ in range(2):
        state = TrainState.create(Plain(nnx.Rngs(0), settings), optax.sgd(0.1), seed=0)
        for _ in range(2):
            state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[0] == losses[1]
    assert state.model.settings == settings
    assert float(make_eval_step()(state, batch)["loss"]) < losses[0]


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(1e-3),
        optax.lion(1e-3),
        optax.polyak_sgd(0.01),
        optax.sgd(optax.cosine_decay_schedule(0.1, 9)),
        optax.adafactor(1e-2),
        optax.lbfgs(),
    ],
    ids=["adamw", "lion", "polyak_sgd", "schedule", "adafactor", "lbfgs"],
)
def test_any_optax_transformation(optimizer):
    """The kind: optax's own optimisers, also those whose update takes the loss or searches along a line."""
    state = TrainState.create(Plain(nnx.Rngs(0), {}), optimizer, seed=0)
    batch = {"image": np.ones((2, 2, 2, 3), np.float32), "label": np.asarray([0, 2], np.int32)}
    step = make_train_step()
    state, first = step(state, batch)
    first = float(first["loss"])
    state, second = step(state, batch)
    assert float(second["loss"]) < first
