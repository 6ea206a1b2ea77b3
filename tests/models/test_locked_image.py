"""A text tower on a frozen EfficientNet-Lite0: what its folder may say, and how it is saved again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.files import asset_folder
from bridgejax.models import load_classifier, reset_blocks, save_classifier
from bridgejax.models.registry import classifier_digest

NAMES = ("bird", "fish", "road sign")
BOTH = nnx.jit(lambda model, images: (model(images), model.features(images)))
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_classifier("builtin:tiny_clip", class_names=NAMES)


def copy_of_asset(folder: Path, **changes: object) -> Path:
    shutil.copytree(asset_folder("tiny_clip"), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    return folder


def test_logits_are_scaled_cosines_of_projected_features(model: Any) -> None:
    seen = np.asarray(BOTH(load_classifier("builtin:efficientnet_lite0"), IMAGES)[1], np.float64)
    kernel, bias = (np.asarray(value, np.float64) for value in (model.projection.kernel, model.projection.bias))
    images = seen @ kernel + bias
    texts = model.encode_text([f"a photo of a {name}." for name in NAMES]).astype(np.float64)
    images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts))
    logits, features = BOTH(model, IMAGES)
    np.testing.assert_allclose(logits, np.exp(model.logit_scale) * images @ texts.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features, images, atol=1e-5)


def test_a_saved_model_holds_its_image_tower_and_gives_the_same(model: Any, tmp_path: Path) -> None:
    save_classifier(model, tmp_path / "saved")
    assert "image_tower" not in json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    again: Any = load_classifier(tmp_path / "saved")
    assert again.class_names == NAMES
    np.testing.assert_array_equal(BOTH(again, IMAGES)[0], BOTH(model, IMAGES)[0])
    other: Any = load_classifier(tmp_path / "saved", class_names=("dog", "cat"))
    np.testing.assert_array_equal(other.encode_text(["a dog"]), model.encode_text(["a dog"]))
    assert other.head.kernel.shape == (other.feature_width, 2)


def test_without_class_names_it_gives_embeddings_and_with_num_classes_the_image_tower() -> None:
    bare: Any = load_classifier("builtin:tiny_clip")
    embeddings, features = nnx.jit(lambda model, images: (model.encode_image(images), model.features(images)))(bare, IMAGES)
    assert embeddings.shape == (2, bare.feature_width)
    np.testing.assert_allclose(features, embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), atol=1e-5)
    with pytest.raises(UserError, match="class_names"):
        bare(IMAGES)
    tower: Any = load_classifier("builtin:tiny_clip", num_classes=5)
    assert tower.head.kernel.shape == (1280, 5)
    expected: Any = load_classifier("builtin:efficientnet_lite0")
    np.testing.assert_array_equal(tower.conv_head.kernel, expected.conv_head.kernel)


def test_the_text_tower_is_no_parameter_and_blocks_start_anew() -> None:
    model: Any = load_classifier("builtin:tiny_clip", class_names=NAMES)
    names = {path[0] for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert {"head", "projection", "blocks"} <= names
    assert "texts" not in names
    before = np.asarray(model.projection.kernel)
    reset_blocks(model, 1, 0)
    assert not np.array_equal(before, model.projection.kernel)
    assert np.isfinite(model.projection.kernel[...]).all()


def test_another_image_tower_is_refused_and_changes_the_digest(tmp_path: Path) -> None:
    tower = {"weights": "builtin:efficientnet_lite0", "sha256": "0" * 64}
    changed = copy_of_asset(tmp_path / "changed", image_tower=tower)
    with pytest.raises(UserError, match=r"is not the file that .*config.json was made for"):
        load_classifier(changed, class_names=NAMES)
    assert classifier_digest(changed) != classifier_digest("builtin:tiny_clip")
    unknown = copy_of_asset(tmp_path / "unknown", image_tower={**tower, "weights": "builtin:resnet50"})
    with pytest.raises(UserError, match=r"resnet50.* is not built in"):
        load_classifier(unknown, class_names=NAMES)
    wrong = copy_of_asset(tmp_path / "wrong", image_tower="builtin:efficientnet_lite0")
    with pytest.raises(UserError, match="weights and sha256"):
        load_classifier(wrong, class_names=NAMES)


def test_a_folder_without_its_projection_is_refused(tmp_path: Path) -> None:
    from bridgejax.models.safetensors_files import read_tensors, save_tensors

    folder = copy_of_asset(tmp_path / "folder")
    tensors = {name: np.array(a) for name, a in read_tensors(folder / "model.safetensors").items()}
    del tensors["visual_projection.weight"]
    save_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(UserError, match=r"visual_projection\.weight"):
        load_classifier(folder, class_names=NAMES)


@pytest.mark.parity
def test_the_text_tower_opens_in_transformers(model: Any) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    folder = asset_folder("tiny_clip")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    original = CLIPTextModelWithProjection(CLIPTextConfig(**config["text_config"])).eval()
    tensors = {name: t.float() for name, t in load_file(folder / "model.safetensors").items() if name.startswith("text_")}
    original.load_state_dict(tensors)
    tokenizer, texts = CLIPTokenizer.from_pretrained(str(folder)), ["a photo of a bird.", "two old road signs at night"]
    with torch.no_grad():
        expected = original(**tokenizer(texts, padding="max_length", return_tensors="pt")).text_embeds.numpy()
    np.testing.assert_allclose(model.encode_text(texts), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
