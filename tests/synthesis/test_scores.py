"""Scores of a synthetic set: the probability of the class that each image was made for, kept beside the images."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx

from bridgejax.data import eval_batches, synthetic_examples
from bridgejax.errors import UserError
from bridgejax.mesh import make_mesh
from bridgejax.models import load_classifier, save_classifier
from bridgejax.synthesis import generate_set, open_set, score_set
from tests.small_backbones import write_clip, write_dinov2

NAMES = ("zebra", "an apple", "cup")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def images(tmp_path, fake):
    def make(per_class):
        return generate_set(
            tmp_path / "set", pipeline=fake, class_names=NAMES, per_class=per_class, batch_size=4, height=40, width=48
        )

    make(5)
    return make


def columns(folder):
    return sorted((folder / "columns").glob("*"))


def test_scores_are_zero_shot_probabilities_in_set_order(images, tmp_path, clip_folder):
    scores = score_set(tmp_path / "set", clip_folder, templates="a blurry {}")
    model = load_classifier(clip_folder, class_names=NAMES, templates="a blurry {}")
    made = model.preprocessing
    labels = [record["label"] for record in open_set(tmp_path / "set")]
    (batch,) = eval_batches(synthetic_examples(tmp_path / "set"), batch_size=15, image_size=made.size, crop=made.crop)
    pixels = (batch["image"] / np.float32(255) - np.float32(made.mean)) / np.float32(made.std)
    logits = np.asarray(nnx.jit(lambda model, x: model(x))(model, pixels), np.float64)
    own = np.exp(logits[np.arange(15), labels]) / np.exp(logits).sum(axis=1)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, own, rtol=1e-5)
    np.testing.assert_array_equal(score_set(tmp_path / "set", model), score_set(tmp_path / "set", model))
    np.testing.assert_allclose(score_set(tmp_path / "set", model), scores, rtol=1e-6)


def test_the_batch_size_and_the_mesh_change_scores_by_rounding_alone(images, tmp_path, clip_folder):
    model = load_classifier(clip_folder, class_names=NAMES)
    whole = score_set(tmp_path / "set", model)
    np.testing.assert_allclose(score_set(tmp_path / "set", model, batch_size=4), whole, rtol=1e-5)
    np.testing.assert_allclose(score_set(tmp_path / "set", model, mesh=make_mesh()), whole, rtol=1e-5)


def test_scores_of_a_folder_are_kept_and_a_larger_set_adds_to_them(images, tmp_path, clip_folder, monkeypatch):
    before = sorted(path.name for path in (tmp_path / "set").iterdir())
    first = score_set(tmp_path / "set", clip_folder)
    (file,) = columns(tmp_path / "set")
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == sorted([*before, "columns"])
    with np.load(file) as stored:
        np.testing.assert_array_equal(stored["value"], first)
        np.testing.assert_array_equal(stored["label"], [record["label"] for record in open_set(tmp_path / "set")])
        np.testing.assert_array_equal(stored["index"], [record["index"] for record in open_set(tmp_path / "set")])
    seen = []
    monkeypatch.setattr(
        "bridgejax.synthesis.scores.scores_of",
        lambda model, examples, **options: seen.append(len(examples)) or np.full(len(examples), 0.5, np.float32),
    )
    np.testing.assert_array_equal(score_set(tmp_path / "set", clip_folder), first)
    images(7)
    np.testing.assert_array_equal(score_set(tmp_path / "set", clip_folder)[:15], first)
    assert seen == [6]
    score_set(tmp_path / "set", clip_folder, templates=["another {}"])
    assert len(columns(tmp_path / "set")) == 2


@pytest.mark.parametrize("harm", ["cut", "noise", "others"])
def test_damaged_scores_are_named_and_computed_again(images, tmp_path, clip_folder, capsys, harm):
    first = score_set(tmp_path / "set", clip_folder)
    (file,) = columns(tmp_path / "set")
    content = file.read_bytes()
    if harm == "others":
        with np.load(file) as stored:
            np.savez_compressed(file, **{**stored, "label": stored["label"][::-1]})
    else:
        middle = len(content) // 2
        file.write_bytes(content[:middle] if harm == "cut" else content[:60] + bytes(40) + content[100:])
    np.testing.assert_array_equal(score_set(tmp_path / "set", clip_folder), first)
    assert f"{file.name} is damaged" in capsys.readouterr().err
    np.testing.assert_array_equal(score_set(tmp_path / "set", clip_folder), first)
    assert capsys.readouterr().err == ""


def test_a_set_with_scores_opens_in_tfds(images, tmp_path, clip_folder):
    import tensorflow_datasets as tfds

    score_set(tmp_path / "set", clip_folder)
    builder = tfds.builder_from_directory(tmp_path / "set")
    assert len(list(builder.as_dataset(split="train"))) == 15


def test_classes_in_another_order_are_matched_by_name(images, tmp_path, clip_folder):
    turned = load_classifier(clip_folder, class_names=NAMES[::-1])
    plain = load_classifier(clip_folder, class_names=NAMES)
    np.testing.assert_allclose(score_set(tmp_path / "set", turned), score_set(tmp_path / "set", plain), rtol=1e-5)
    save_classifier(turned, tmp_path / "stored")
    np.testing.assert_allclose(score_set(tmp_path / "set", tmp_path / "stored"), score_set(tmp_path / "set", plain), rtol=1e-5)


def test_any_classifier_of_the_classes_can_score(images, tmp_path):
    model = load_classifier("builtin:efficientnet_lite0", num_classes=3)
    scores = score_set(tmp_path / "set", model, image_size=32)
    assert scores.shape == (15,)
    assert ((scores > 0) & (scores < 1)).all()


def test_other_classes_are_named(images, tmp_path, clip_folder):
    with pytest.raises(UserError, match="has 1000 classes, but the synthetic set has 3"):
        score_set(tmp_path / "set", "builtin:efficientnet_lite0")
    with pytest.raises(UserError, match="knows no class 'cup' of the synthetic set"):
        score_set(tmp_path / "set", load_classifier(clip_folder, class_names=["zebra", "an apple", "mug"]))
    with pytest.raises(UserError, match="has 4 classes, but the synthetic set has 3"):
        score_set(tmp_path / "set", load_classifier(clip_folder, class_names=[*NAMES, "mug"]))
    with pytest.raises(UserError, match="is a CLIP model without classes; load it with class_names"):
        score_set(tmp_path / "set", load_classifier(clip_folder))
    with pytest.raises(UserError, match=r"holds a network without a head; .* to score images, take a classifier"):
        score_set(tmp_path / "set", write_dinov2(tmp_path / "dinov2"))
    with pytest.raises(UserError, match="so leave them out"):
        score_set(tmp_path / "set", load_classifier(clip_folder, class_names=NAMES), templates="a {}")
    assert not columns(tmp_path / "set")


def test_a_folder_without_images_is_named(tmp_path, clip_folder):
    with pytest.raises(UserError, match="holds no finished synthetic set"):
        score_set(tmp_path, clip_folder)


def test_one_program_serves_every_batch(images, tmp_path, clip_folder, monkeypatch):
    model, traced = load_classifier(clip_folder, class_names=NAMES), []
    forward = type(model).__call__

    def counted(self, pixels):
        traced.append(pixels.shape)
        return forward(self, pixels)

    monkeypatch.setattr(type(model), "__call__", counted)
    score_set(tmp_path / "set", model, batch_size=2)
    assert traced == [(2, 32, 32, 3)]


MESH_PROGRAM = """
import sys
import os
import subprocess
import sys

import numpy as np
from bridgejax.mesh import make_mesh
from bridgejax.synthesis import score_set
mesh = make_mesh([("data", 4)])
assert mesh.size == 4
np.save(sys.argv[3], score_set(sys.argv[1], sys.argv[2], mesh=mesh, batch_size=6))
"""


def test_four_devices_give_the_scores_of_one(images, tmp_path, clip_folder):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    arguments = (str(tmp_path / "set"), str(clip_folder), str(tmp_path / "scores.npy"))
    subprocess.run([sys.executable, "-c", MESH_PROGRAM, *arguments], check=True, env=environment, timeout=300)
    (file,) = columns(tmp_path / "set")
    file.unlink()
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), score_set(tmp_path / "set", clip_folder), rtol=1e-5)


@pytest.mark.parity
def test_scores_are_those_of_the_original(images, tmp_path, clip_folder):
    import torch
    from transformers import CLIPModel

    from bridgejax.models.tokenizer import Tokenizer

    original = CLIPModel.from_pretrained(clip_folder).eval()
    scores = score_set(tmp_path / "set", clip_folder)
    (batch,) = eval_batches(synthetic_examples(tmp_path / "set"), batch_size=15, image_size=32, crop=32 / 36)
    made = load_classifier(clip_folder, class_names=NAMES).preprocessing
    pixels = (batch["image"] / np.float32(255) - np.float32(made.mean)) / np.float32(made.std)
    ids = torch.from_numpy(np.asarray(Tokenizer(clip_folder, 77)([f"a photo of a {name}." for name in NAMES]), np.int64))
    with torch.no_grad():
        logits = original(ids, torch.from_numpy(pixels.transpose(0, 3, 1, 2))).logits_per_image
    own = torch.softmax(logits, 1)[torch.arange(15), torch.from_numpy(batch["label"].astype(np.int64))]
    np.testing.assert_allclose(scores, own.numpy(), rtol=1e-4)


def test_damaged_weights_are_named_as_such(images, tmp_path):
    save_classifier(load_classifier("builtin:efficientnet_lite0", num_classes=3), tmp_path / "trained")
    weights = tmp_path / "trained" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        score_set(tmp_path / "set", tmp_path / "trained")
