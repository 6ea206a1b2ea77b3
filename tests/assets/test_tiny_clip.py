"""The embedded CLIP is small, is what it says it is, and knows the photographs that it never saw.

No photograph of `tux_photos` took part in its training or in any choice: its settings were chosen on drawings. The floors below
follow from what was measured once, at the end (PROVENANCE.md beside the weights).
"""

from __future__ import annotations

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bridgejax.data import eval_batches, load_task
from bridgejax.files import asset_folder
from bridgejax.identity import file_digest
from bridgejax.models import load_classifier

FOLDER = asset_folder("tiny_clip")
CLASSES = (
    "bird",
    "fish",
    "flower",
    "fruit",
    "insect",
    "mammal",
    "musical instrument",
    "road sign",
    "tool",
    "vegetable",
    "vehicle",
)
MEASURED = {96: 0.7145, 224: 0.7340}  # mean per class
MARGIN = 0.02  # of arithmetic that differs between machines: a fish that changes sides is 0.008


@pytest.fixture(scope="module")
def clip() -> Any:
    return load_classifier("builtin:tiny_clip", class_names=CLASSES)


def photographs(model: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels int [n] and embeddings [n, d] of every photograph at one side."""
    task = load_task("builtin:tux_photos")
    assert tuple(name.replace("_", " ") for name in task.class_names) == CLASSES
    mean, std = (jnp.asarray(value, jnp.float32) for value in (model.preprocessing.mean, model.preprocessing.std))
    features = nnx.jit(lambda model, images: model.features((images / 255 - mean) / std))
    labels, rows = [], []
    for part in (task.train, task.test):
        for batch in eval_batches(part, batch_size=32, image_size=size, crop=model.preprocessing.crop):
            kept = batch["mask"] > 0
            labels.append(batch["label"][kept])
            rows.append(np.asarray(features(model, batch["image"].astype(np.float32)))[kept])
    return np.concatenate(labels), np.concatenate(rows)


def mean_per_class(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(np.mean([(predictions[labels == k] == k).mean() for k in range(len(CLASSES))]))


def test_the_folder_is_small_and_whole() -> None:
    listed = dict(reversed(line.split("  ", 1)) for line in (FOLDER / "SHA256SUMS").read_text().splitlines())
    present = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert set(listed) == present - {"SHA256SUMS"}
    assert {"LICENSE", "PROVENANCE.md", "config.json", "model.safetensors", "vocab.json", "merges.txt"} <= present
    assert all(file_digest(FOLDER / file) == digest for file, digest in listed.items())
    assert sum((FOLDER / file).stat().st_size for file in present) <= 6 * 2**20


def test_its_provenance_names_its_sources_and_no_photograph() -> None:
    text = (FOLDER / "PROVENANCE.md").read_text(encoding="utf-8")
    assert "No photograph was used in training, and none in any choice" in text
    assert "openclipart-png" in text
    assert "emoji-datasource-google" in text
    tower = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))["image_tower"]
    assert tower["sha256"] == file_digest(asset_folder(tower["weights"]) / "model.safetensors")


@pytest.mark.parametrize("size", list(MEASURED))
def test_it_knows_photographs_that_it_never_saw(clip: Any, size: int) -> None:
    labels, features = photographs(clip, size)
    assert len(labels) == 251
    by_name = np.asarray(clip.head(jnp.asarray(features))).argmax(1)
    assert mean_per_class(labels, by_name) >= MEASURED[size] - MARGIN > 0.60


def test_texts_of_a_class_are_closer_to_its_name_than_to_others(clip: Any) -> None:
    sentences = {
        "bird": "a drawing of a parrot on a branch",
        "mammal": "a big brown horse in a field",
        "fish": "a picture of a shark",
        "flower": "a small red rose in the garden",
        "tool": "a hammer on a wooden table",
        "musical instrument": "an old violin",
    }
    texts = clip.encode_text(list(sentences.values()))
    assert texts.shape == (len(sentences), clip.feature_width)
    assert texts.dtype == np.float32
    said = [CLASSES[k] for k in (texts @ np.asarray(clip.head.kernel)).argmax(1)]
    assert said == list(sentences)
