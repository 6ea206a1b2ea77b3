"""Small models, tasks and streams for the tests of training."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bridgejax.models.projection_head import add_projection
from bridgejax.models.resnet import ResNet, ResNetConfig

CLASSES = 3


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    size: int = 8
    mean: tuple[float, float, float] = (0.5, 0.4, 0.3)
    std: tuple[float, float, float] = (0.2, 0.25, 0.3)
    crop: float = 1.0


class TinyNet(nnx.Module):
    """A convolution, a batch norm and a head; `traces` counts how often it was called, so also how often it was compiled."""

    traces = 0

    def __init__(self, rngs: nnx.Rngs, batch_norm: bool = True, dropout: float = 0.0, classes: int = CLASSES) -> None:
        self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(6, momentum=0.9, rngs=rngs) if batch_norm else None
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(6, classes, rngs=rngs)
        self.num_classes = classes
        self.preprocessing = Preprocessing()

    def __call__(self, images: jax.Array) -> jax.Array:
        TinyNet.traces += 1
        x = self.conv(images)
        x = nnx.relu(x if self.bn is None else self.bn(x))
        return self.head(self.dropout(x.mean((1, 2))))


def tiny_resnet(projection: int | None = None) -> ResNet:
    """A random ResNet of one block, perhaps with a projection head of that width, made by one program."""

    def made() -> ResNet:
        model = ResNet(ResNetConfig("timm", "resnet18", (1,), (8,), 8, False), CLASSES, Preprocessing(), rngs=nnx.Rngs(0))
        if projection is not None:
            add_projection(model, projection, jax.random.key(0))
        return model

    return nnx.jit(made)()


class PlainNet(nnx.Module):
    """A user's own network: no preprocessing, no head, flat names in a list."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(4 * 4 * 3, 8, rngs=rngs), nnx.Linear(8, CLASSES, rngs=rngs)])

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.layers[1](jnp.tanh(self.layers[0](images.reshape(images.shape[0], -1))))


@dataclasses.dataclass(frozen=True)
class Examples:
    images: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Task:
    train: Examples
    test: Examples
    name: str = "colours"
    class_names: tuple[str, ...] = ("red", "green", "blue")
    validation: Any = None
    digest: str = "colours-1"


def examples(n: int, seed: int, name: str) -> Examples:
    """Pictures in which the class's channel is a little brighter."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int32) % CLASSES
    images = rng.integers(0, 200, (n, 8, 8, 3))
    images[np.arange(n), :, :, labels] += 55
    return Examples(images.astype(np.uint8), labels, tuple(f"{name}{i}" for i in range(n)))


def task() -> Task:
    return Task(examples(12, 0, "train"), examples(10, 1, "test"))


class Streams:
    """The two functions that the loop asks of the data room, in memory."""

    def __init__(self, on_batch: Any = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.on_batch = on_batch

    def train_batches(
        self,
        sources: Any,
        *,
        weights: Any,
        batch_size: int,
        image_size: int,
        seed: int,
        start_step: int = 0,
        augment: bool = True,
        crop: float = 0.875,
    ) -> Iterator[dict[str, np.ndarray]]:
        self.calls.append({"sources": len(sources), "weights": weights, "start_step": start_step, "augment": augment})
        images = np.concatenate([source.images for source in sources])
        labels = np.concatenate([source.labels for source in sources])
        step = start_step
        while True:
            chosen = np.random.default_rng([seed, step]).integers(0, len(labels), batch_size)
            if self.on_batch is not None:
                self.on_batch(step)
            yield {"image": images[chosen], "label": labels[chosen], "mask": np.ones(batch_size, np.float32)}
            step += 1

    def eval_batches(
        self, found: Examples, *, batch_size: int, image_size: int, crop: float = 0.875
    ) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(found), batch_size):
            rows = np.arange(start, start + batch_size)
            kept = rows < len(found)
            rows = np.where(kept, rows, 0)
            yield {"image": found.images[rows], "label": found.labels[rows], "mask": kept.astype(np.float32)}


def batch(n: int = 8, seed: int = 0, size: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(size=(n, size, size, 3)).astype(np.float32),
        "label": rng.integers(0, CLASSES, n).astype(np.int32),
    }


def printed_by(program: str, devices: int) -> Any:
    """The JSON that a program beside the tests prints in a process of so many virtual devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__).with_name(program))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
