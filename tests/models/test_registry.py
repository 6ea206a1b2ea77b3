"""Classifier folders: loading, saving, new heads, and what a damaged folder says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bridgejax.errors import UserError
from bridgejax.files import asset_folder
from bridgejax.models import load_classifier, reset_head, save_classifier

SOURCE = asset_folder("efficientnet_lite0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "classifier"
    target.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(SOURCE / name, target / name)
    return target


def _change(folder: Path, change: str) -> None:
    tensors = dict(load_file(folder / "model.safetensors"))
    if change == "missing":
        del tensors["_blocks.3._bn1.weight"]
    elif change == "extra":
        tensors["_blocks.99.weight"] = np.zeros(3, np.float32)
    elif change == "nan":
        tensors["_conv_head.weight"] = np.full_like(tensors["_conv_head.weight"], np.nan)
    else:
        tensors["_fc.weight"] = tensors["_fc.weight"][:, :7].copy()
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("missing", r"_blocks\.3\._bn1\.weight"),
        ("extra", r"_blocks\.99\.weight"),
        ("nan", r"_conv_head\.weight"),
        ("shape", r"_fc\.weight"),
    ],
)
def test_a_damaged_tensor_is_named_in_one_sentence(folder: Path, change: str, word: str) -> None:
    _change(folder, change)
    with pytest.raises(UserError, match=word) as error:
        load_classifier(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not readable JSON"),
        ("[]", "must hold a JSON object"),
        ('{"architecture": "resnet_tiny"}', "resnet_tiny"),
        ('{"architecture": "efficientnet_lite0", "num_classes": 1000}', "preprocessing"),
    ],
)
def test_a_wrong_config_is_told(folder: Path, text: str, word: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=word):
        load_classifier(folder)


def test_missing_folder_file_and_name_are_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no classifier folder .*nowhere"):
        load_classifier(tmp_path / "nowhere")
    with pytest.raises(UserError, match="did you mean 'builtin:efficientnet_lite0'"):
        load_classifier("builtin:efficientnet_lite")
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cut short"):
        load_classifier(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_classifier(folder)


def test_saving_unchanged_weights_gives_the_published_file_back(tmp_path: Path) -> None:
    save_classifier(load_classifier("builtin:efficientnet_lite0"), tmp_path / "copy")
    published, saved = (load_file(path / "model.safetensors") for path in (SOURCE, tmp_path / "copy"))
    assert set(published) == set(saved)
    assert all((published[name] == saved[name]).all() for name in published)
    assert json.loads((SOURCE / "config.json").read_text()) == json.loads((tmp_path / "copy" / "config.json").read_text())


def test_a_new_head_round_trips_and_a_diverged_model_is_not_saved(tmp_path: Path) -> None:
    model = load_classifier("builtin:efficientnet_lite0", num_classes=4, seed=1)
    save_classifier(model, tmp_path / "four")
    loaded = load_classifier(tmp_path / "four")
    assert loaded.num_classes == 4
    assert loaded.preprocessing == model.preprocessing
    np.testing.assert_array_equal(loaded.head.kernel[...], model.head.kernel[...])
    model.head.bias[...] = model.head.bias[...] + jnp.nan
    with pytest.raises(UserError, match="NaN"):
        save_classifier(model, tmp_path / "diverged")
    assert not (tmp_path / "diverged").exists()


def test_heads_depend_on_the_seed_alone() -> None:
    first, again, other = (load_classifier("builtin:efficientnet_lite0", 6, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.head.kernel[...], again.head.kernel[...])
    assert (np.asarray(first.head.kernel[...]) != np.asarray(other.head.kernel[...])).any()
    same = reset_head(first, jax.random.key(5))
    assert same is first
    assert first.num_classes == 6
    assert (np.asarray(first.head.kernel[...]) != np.asarray(again.head.kernel[...])).any()
    assert reset_head(first, 5, 3).head.kernel[...].shape == (1280, 3)
    with pytest.raises(UserError, match="at least 1 class"):
        reset_head(first, 5, 0)
