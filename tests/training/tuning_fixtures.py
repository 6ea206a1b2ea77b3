"""Pictures and a small random CLIP model for the tests of classifier tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bridgejax import data
from bridgejax.data.examples import Examples, Task
from bridgejax.data.images import encode_png
from bridgejax.identity import digest
from bridgejax.models import load_classifier
from bridgejax.models.classifier import Classifier
from tests.small_backbones import write_clip

NAMES = ("red", "green", "blue")
TEMPLATES = ("a photo of a {}.", "the {}")
SIDE, CROP = 32, 32 / 36
HEAD = {"trainable": ["head"], "batch_norm": "frozen", "augment": False}
TUNING = {**HEAD, "optimizer": "adamw", "weight_decay": 0.1, "clip_norm": 1.0, "learning_rate": 0.002}
SOFT = {"loss": "soft_target", "teacher": "pretrained"}


def pictures(count: int, seed: int) -> Examples:
    """Noise in which the class's channel is a little brighter."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % len(NAMES)
    images = rng.integers(0, 200, (count, 40, 40, 3))
    images[np.arange(count), :, :, labels] += 55
    encoded = tuple(encode_png(image) for image in images.astype(np.uint8))
    return Examples(encoded, labels, tuple(f"{seed}-{number}" for number in range(count)))


def task(count: int = 9) -> Task:
    train, test = pictures(count, 1), pictures(7, 2)
    return Task("colours", NAMES, train, pictures(6, 3), test, digest([count]))


def clip(folder: Path, **changes: Any) -> Classifier:
    folder.mkdir(exist_ok=True)
    if not (folder / "config.json").exists():
        write_clip(folder)
    return load_classifier(folder, class_names=NAMES, templates=TEMPLATES)


class CountingStreams:
    """The streams of `bridgejax.data`; `encoded` lists how many images each evaluation stream was asked for."""

    def __init__(self) -> None:
        self.encoded: list[int] = []
        self.train_batches = data.train_batches

    def eval_batches(self, examples: Examples, **options: Any) -> Any:
        self.encoded.append(len(examples))
        return data.eval_batches(examples, **options)
