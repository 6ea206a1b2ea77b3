"""Backbones without PyTorch: folders in and out, new starts, training, and what a wrong folder says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from bridgejax.errors import UserError
from bridgejax.models import Preprocessing, load_classifier, reinitialise, reset_blocks, save_classifier
from bridgejax.models.registry import abstract_classifier, classifier_digest
from bridgejax.models.reset import linear_heads
from bridgejax.models.resnet import max_pool
from bridgejax.training import TrainState, make_eval_step, make_optimizer, make_train_step
from tests.small_backbones import CONFIGS, MEAN, STD, write_backbone, write_clip, write_config

KINDS = tuple(CONFIGS)
RUN = nnx.jit(lambda model, x: model(x))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    made = {kind: write_backbone(kind, root / kind.replace(" ", "-")) for kind in KINDS}
    return {**made, "clip": write_clip(root / "clip")}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Any:
    return lambda kind: Path(shutil.copytree(folders[kind], tmp_path / "copy"))


def _images(size: int = 40, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (count, size, size, 3)).astype(np.float32)


def _arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_gives_the_same_model_back(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    model = load_classifier(folders[kind])
    assert model.num_classes == 5
    save_classifier(model, tmp_path / "copy")
    again = load_classifier(tmp_path / "copy")
    assert nnx.graphdef(again) == nnx.graphdef(model)
    np.testing.assert_array_equal(RUN(again, _images()), RUN(model, _images()))
    assert classifier_digest(tmp_path / "copy") == classifier_digest(folders[kind])
    shapes = {name: array.shape for name, array in _arrays(model).items()}
    abstract = nnx.to_flat_state(nnx.state(abstract_classifier(folders[kind])))
    assert {".".join(map(str, path)): leaf.get_value().shape for path, leaf in abstract} == shapes


def test_a_folder_that_was_loaded_before_gives_what_it_holds_now(folders: dict[str, Path], copied: Any) -> None:
    first, second = KINDS[:2]
    folder = copied(first)
    before = load_classifier(folder)
    shutil.rmtree(folder)
    shutil.copytree(folders[second], folder)
    assert nnx.graphdef(load_classifier(folder)) == nnx.graphdef(load_classifier(folders[second])) != nnx.graphdef(before)


def test_two_loads_of_a_folder_share_nothing(folders: dict[str, Path]) -> None:
    model, other = load_classifier(folders[KINDS[0]], 3), load_classifier(folders[KINDS[0]], 3)
    expected, images = np.asarray(RUN(other, _images())), _images()
    for _, leaf in nnx.to_flat_state(nnx.state(model)):
        leaf[...] = 0 * leaf[...]
    model.class_names = ("a", "b", "c")
    np.testing.assert_array_equal(RUN(other, images), expected)
    assert other.class_names == load_classifier(folders[KINDS[0]], 3).class_names != ("a", "b", "c")


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_classes_changes_the_head_alone(folders: dict[str, Path], kind: str) -> None:
    model, new = load_classifier(folders[kind]), load_classifier(folders[kind], num_classes=3, seed=1)
    before, after = _arrays(model), _arrays(new)
    changed = {name for name in before if before[name].shape != after[name].shape or (before[name] != after[name]).any()}
    assert changed == {name for name in before if name.startswith("head.")}
    features = nnx.jit(lambda model, x: model.features(x))(new, _images())
    np.testing.assert_allclose(new.head(features), RUN(new, _images()), atol=1e-4)
    heads = linear_heads(new)
    parts = np.split(np.asarray(features), len(heads), axis=1)
    each = [part @ head.kernel[...] + head.bias[...] for part, head in zip(parts, heads, strict=True)]
    np.testing.assert_allclose(np.mean(each, axis=0), RUN(new, _images()), atol=1e-4)
    assert (len(heads) == 2) == ("deit" in kind)


def test_both_heads_of_a_distilled_network_are_trained_and_kept_to_the_bit(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["timm deit"]
    published = load_file(folder / "model.safetensors")
    save_classifier(load_classifier(folder), tmp_path / "copy")
    saved = load_file(tmp_path / "copy" / "model.safetensors")
    assert (published["head.bias"] != published["head_dist.bias"]).all()
    assert all((saved[name] == array).all() for name, array in published.items())
    state = TrainState.create(
        load_classifier(folder, num_classes=3), make_optimizer("sgd", learning_rate=0.1), trainable=("head",)
    )
    assert set(state.params) == {f"head.{head}.{part}" for head in ("cls", "dist") for part in ("kernel", "bias")}
    save_classifier(state.model, tmp_path / "three")
    again = load_classifier(tmp_path / "three")
    assert nnx.graphdef(again) == nnx.graphdef(state.model)
    assert (np.asarray(again.head.cls.kernel[...]) != np.asarray(again.head.dist.kernel[...])).all()
    # A network that was published without heads gets two.
    bare = {name: array for name, array in published.items() if not name.startswith("head")}
    shutil.copytree(folder, tmp_path / "bare")
    save_file(bare, tmp_path / "bare" / "model.safetensors")
    headless = load_classifier(_edit(tmp_path / "bare", num_classes=0), num_classes=3)
    np.testing.assert_array_equal(headless.head.dist.kernel[...], again.head.dist.kernel[...])


@pytest.mark.parametrize("kind", ["timm resnet", "timm vit", "transformers vit"])
def test_the_last_blocks_start_as_a_new_network_does(folders: dict[str, Path], kind: str) -> None:
    model = load_classifier(folders[kind])
    count = len(model.blocks)
    new, partly = reinitialise(nnx.clone(model), 9), reset_blocks(nnx.clone(model), 2, 9)
    before, fresh, after = _arrays(model), _arrays(new), _arrays(partly)
    last = (f"blocks.{count - 1}.", f"blocks.{count - 2}.", "norm.", "head.")
    for name in before:
        np.testing.assert_array_equal(after[name], (fresh if name.startswith(last) else before)[name], err_msg=name)
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert {name.split(".")[0] for name in changed} == {"blocks", "head"}
    with pytest.raises(UserError, match=f"has {count} blocks"):
        reset_blocks(model, count + 1, 0)


def test_initial_values_have_the_published_spread(tmp_path: Path) -> None:
    """Sampling error of a deviation from n values is 1 / √(2 n) of it; five times that is allowed."""

    def check(array: np.ndarray, deviation: float) -> None:
        assert abs(array.std() / deviation - 1) < 5 / np.sqrt(2 * array.size)

    resnet = _arrays(load_classifier(write_config("timm resnet", tmp_path / "r"), pretrained=False))
    check(resnet["conv1.kernel"], np.sqrt(2 / (49 * 64)))
    check(resnet["blocks.3.conv2.kernel"], np.sqrt(2 / (9 * 32)))
    assert (resnet["blocks.3.bn2.scale"] == 1).all()
    assert (resnet["blocks.3.bn2.var"] == 1).all()
    vit = _arrays(load_classifier(write_config("timm vit", tmp_path / "v"), pretrained=False))
    check(vit["positions"], 0.02)
    check(vit["blocks.1.mlp.fc1.kernel"], 0.02)
    check(vit["patch.kernel"], 1 / np.sqrt(3 * 192))  # uniform in ±1/√fan in has the deviation 1/√(3 · fan in)
    assert np.abs(vit["class_token"]).max() < 1e-5
    assert (vit["blocks.1.mlp.fc1.bias"] == 0).all()
    other = _arrays(load_classifier(tmp_path / "v", pretrained=False, seed=1, num_classes=2))
    assert other["head.kernel"].shape == (32, 2)
    assert (other["positions"] != vit["positions"]).all()


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_a_resnet_trains_with_moving_or_frozen_statistics(folders: dict[str, Path], batch_norm: str) -> None:
    model = load_classifier(folders["timm resnet"])
    before = _arrays(model)
    state = TrainState.create(model, make_optimizer("sgd", learning_rate=0.01), seed=0)
    batch = {"image": np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), np.uint8), "label": np.arange(4)}
    step = make_train_step(batch_norm=batch_norm)
    losses = []
    for _ in range(6):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    after = _arrays(state.model)
    moved = {name.rpartition(".")[2] for name in before if (before[name] != after[name]).any()}
    assert ({"mean", "var"} <= moved) == (batch_norm == "train")
    assert {"kernel", "scale", "bias"} <= moved
    assert losses[-1] < losses[0]
    assert np.isfinite(float(make_eval_step()(state, batch)["loss"]))


def test_a_vision_transformer_trains_its_positions_at_another_size(folders: dict[str, Path]) -> None:
    model = load_classifier(folders["timm vit"])
    state = TrainState.create(model, make_optimizer("adamw", learning_rate=1e-3), seed=0)
    batch = {"image": np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), np.uint8), "label": np.arange(4)}
    before = _arrays(model)
    state, metrics = make_train_step()(state, batch)
    assert np.isfinite(float(metrics["loss"]))
    after = _arrays(state.model)
    still = [name for name in before if (before[name] == after[name]).all()]
    assert still == []
    with pytest.raises(UserError, match="hold no patch of 8"):
        model(jnp.zeros((1, 7, 7, 3)))


@pytest.mark.parametrize("kind", [*KINDS, "clip", "builtin:efficientnet_lite0"])
def test_images_that_are_not_normalised_floats_are_told(folders: dict[str, Path], kind: str) -> None:
    model = load_classifier(folders.get(kind, kind), **({"class_names": ["cat"]} if kind == "clip" else {}))
    images = np.zeros((2, 40, 40, 3), np.float32)
    calls = [model] if kind.startswith("builtin") else [model, model.features]
    for call in [*calls, *([model.encode_image] if kind == "clip" else [])]:
        for wrong in (
            images.astype(np.uint8),
            images.astype(np.int32),
            images.transpose(0, 3, 1, 2),
            images[0],
            images[..., :1],
        ):
            with pytest.raises(UserError, match=r"a classifier takes float \[n, h, w, 3\], normalised") as error:
                call(wrong)
            assert str(list(wrong.shape)) in str(error.value)
            assert "\n" not in str(error.value)


def test_the_pool_is_a_padded_maximum() -> None:
    for size in (7, 8):
        x = np.random.default_rng(size).normal(-3, 1, (2, size, size, 3)).astype(np.float32)
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
        np.testing.assert_array_equal(max_pool(jnp.asarray(x)), windows.max((-1, -2)))


def test_zero_shot_logits_are_scaled_cosines_and_a_template_list_is_averaged(folders: dict[str, Path], tmp_path: Path) -> None:
    names, templates = ["cat", "steam engine"], ["a photo of a {}.", "a {}"]
    clip = load_classifier(folders["clip"], class_names=names, templates=templates)
    images, texts = clip.encode_image(_images(32)), clip.encode_text([t.format(n) for n in names for t in templates])
    unit = [np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts)]
    columns = unit[1].reshape(2, 2, -1).mean(1)
    columns /= np.linalg.norm(columns, axis=-1, keepdims=True)
    np.testing.assert_allclose(RUN(clip, _images(32)), np.exp(2.0) * unit[0] @ columns.T, rtol=1e-4, atol=1e-4)
    assert clip.num_classes == 2
    # Many texts go in batches of one size; the last is filled up.
    many = clip.encode_text([f"number {number}" for number in range(70)])
    np.testing.assert_allclose(many[[3, 69]], clip.encode_text(["number 3", "number 69"]), rtol=1e-4, atol=1e-5)
    assert clip.encode_text([]).shape == (0, 16)
    save_classifier(clip, tmp_path / "saved")
    again = load_classifier(tmp_path / "saved")
    np.testing.assert_array_equal(RUN(again, _images(32)), RUN(clip, _images(32)))
    tuned = load_classifier(tmp_path / "saved", num_classes=4)
    assert tuned.features(_images(32)).shape == (2, 32)  # the tower's width, not the projection's
    other = load_classifier(tmp_path / "saved", class_names=["dog", "tree", "house"])
    assert other.num_classes == 3


def test_the_text_tower_is_neither_trained_nor_counted(folders: dict[str, Path]) -> None:
    clip = load_classifier(folders["clip"], class_names=["cat", "dog"])
    assert not [name for name in _arrays(clip) if "text" in name or "token_embedding" in name]
    state = TrainState.create(clip, make_optimizer("sgd", learning_rate=0.1), seed=0, trainable=("head",))
    batch = {"image": _images(32, 4), "label": np.arange(4) % 2}
    state, metrics = make_train_step()(state, batch)
    assert np.isfinite(float(metrics["loss"]))
    np.testing.assert_array_equal(state.model.encode_text(["cat"]), clip.encode_text(["cat"]))


@pytest.mark.parametrize(
    ("content", "size", "crop"),
    [
        ({"size": 224}, 224, 1.0),
        ({"size": 256, "crop_size": 224}, 224, 0.875),
        ({"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}, 224, 1.0),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 224, 0.875),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, 1.0),
        ({"size": {"height": 240, "width": 240}, "crop_size": 224, "do_center_crop": False}, 240, 1.0),
    ],
)
def test_published_preprocessors_are_understood(content: dict, size: int, crop: float, tmp_path: Path) -> None:
    folder = write_config("transformers vit", tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD, **content}))
    expected = Preprocessing(size, (MEAN[0], MEAN[1], MEAN[2]), (STD[0], STD[1], STD[2]), crop)
    model = load_classifier(folder, pretrained=False)
    assert model.preprocessing == expected
    save_classifier(model, tmp_path / "copy")
    assert load_classifier(tmp_path / "copy").preprocessing == expected


def _nest(folder: Path) -> Path:
    """Turns the folder's preprocessor file into that of transformers 5."""
    old = folder / "preprocessor_config.json"
    content = {"image_processor": json.loads(old.read_text()), "processor_class": "CLIPProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(content))
    old.unlink()
    return folder


@pytest.mark.parametrize("kind", ["transformers vit", "transformers resnet"])
def test_the_image_processor_of_a_processor_config_is_read_and_hashed(folders: dict[str, Path], copied: Any, kind: str) -> None:
    folder = _nest(copied(kind))
    model = load_classifier(folder)
    assert model.preprocessing == load_classifier(folders[kind]).preprocessing
    before = classifier_digest(folder)
    content = json.loads((folder / "processor_config.json").read_text())
    content["image_processor"]["image_mean"] = [0.1, 0.2, 0.3]
    (folder / "processor_config.json").write_text(json.dumps(content))
    assert classifier_digest(folder) != before
    assert load_classifier(folder).preprocessing.mean == (0.1, 0.2, 0.3)
    # What is saved there again says it in one file.
    save_classifier(model, folder)
    assert not (folder / "processor_config.json").exists()
    assert load_classifier(folder).preprocessing == model.preprocessing


def test_a_clip_folder_of_transformers_5_is_read(copied: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    """It holds `processor_config.json` and `tokenizer.json`, but none of the files that came before them."""
    transformers = pytest.importorskip("transformers")
    folder = _nest(copied("clip"))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    tokenizer.save_pretrained(folder)
    assert not (folder / "vocab.json").exists()
    names = ["cat", "steam engine"]
    clip, usual = (load_classifier(place, class_names=names) for place in (folder, folders["clip"]))
    assert clip.preprocessing == usual.preprocessing
    np.testing.assert_array_equal(clip.head.kernel[...], usual.head.kernel[...])
    save_classifier(load_classifier(folder, class_names=names, image_size=48), tmp_path / "saved")
    assert not (tmp_path / "saved" / "processor_config.json").exists()
    assert load_classifier(tmp_path / "saved").preprocessing.size == 48


@pytest.mark.parametrize(
    ("kind", "size", "crop", "mean"),
    [
        ("transformers vit", 32, 1.0, 0.5),
        ("transformers deit", 32, 0.875, 0.485),
        ("transformers resnet", 224, 0.875, 0.485),
        ("clip", 32, 1.0, 0.48145466),
    ],
)
def test_a_network_saved_alone_takes_the_usual_preprocessing_with_a_warning(
    copied: Any, kind: str, size: int, crop: float, mean: float
) -> None:
    folder = copied(kind)
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match=rf"holds no preprocessor_config\.json.+size {size}, crop {crop}, mean \({mean}"):
        made = load_classifier(folder, num_classes=3).preprocessing
    with pytest.warns(UserWarning, match="holds no preprocessor_config"):
        assert classifier_digest(folder)
    assert (made.size, made.crop, made.mean[0]) == (size, crop, mean)


def _edit(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **changes}))
    return folder


def test_a_wrong_config_is_told_in_one_sentence(copied: Any, folders: dict[str, Path]) -> None:
    folder = copied("timm vit")
    shutil.copy(folders["transformers vit"] / "preprocessor_config.json", folder)
    kept = (folder / "config.json").read_text()
    for changes, words in (
        ({"architecture": "vit_bass_patch16_224"}, r"'vit_bass_patch16_224' is not known; did you mean 'vit_base_patch16_224'"),
        ({"architecture": "convnext_tiny"}, r"'convnext_tiny' is not known"),
        ({"model_args": {"class_token": False}}, r"model_args: class_token = False is not supported, only True"),
        ({"model_args": {"depth": "3"}}, r"depth is '3'; expected a positive whole number"),
        ({"model_args": {"num_heads": 5, "embed_dim": 32}}, r"5 attention heads do not divide a width of 32"),
        ({"model_args": {"mlp_ratio": "a"}}, r"config\.json: model_args: mlp_ratio is 'a'; expected a positive number"),
        ({"model_args": {"mlp_ratio": None}}, r"mlp_ratio is None; expected a positive number"),
        ({"global_pool": "avg"}, r"global_pool = 'avg' is not supported"),
        ({"pretrained_cfg": {}}, r"pretrained_cfg with input_size"),
        ({"architecture": None, "model_type": "bert"}, r"architecture None is not known"),
    ):
        (folder / "config.json").write_text(kept)
        with pytest.raises(UserError, match=words) as error:
            load_classifier(_edit(folder, **changes))
        assert "\n" not in str(error.value)
    base = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    for content, words in (
        ({"model_type": "bert"}, r"model_type 'bert' is not a supported classifier"),
        ({**base, "architectures": ["ViTForMaskedImageModeling"]}, r"ViTForMaskedImageModeling is another kind of model"),
        ({**base, "architectures": [1]}, r"config\.json: architectures is \[1\]; expected a list of names"),
        ({**base, "architectures": "ViTModel"}, r"architectures is 'ViTModel'; expected a list of names"),
        ({**base, "layer_norm_eps": None}, r"config\.json: layer_norm_eps is None; expected a positive number"),
        ({"model_type": "clip", "vision_config": {"layer_norm_eps": "a"}}, r"vision_config: layer_norm_eps is 'a'; expected"),
        ({**base, "qkv_bias": False}, r"qkv_bias = False is not supported"),
        ({**base, "hidden_act": "tanh"}, r"config\.json: hidden_act = 'tanh' is not a supported activation"),
        ({"model_type": "resnet", "layer_type": "wide"}, r"layer_type is 'wide'"),
        ({"model_type": "resnet", "depths": [2, 2]}, r"depths and hidden_sizes must be equally long"),
    ):
        (folder / "config.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=words):
            load_classifier(folder)
    (folder / "processor_config.json").write_text('{"image_processor": {"size": 32}}')
    (folder / "config.json").write_text(json.dumps(base))
    with pytest.raises(UserError, match=r"/processor_config\.json must hold size, image_mean and image_std"):
        load_classifier(folder)
    (folder / "processor_config.json").write_text("{")
    with pytest.raises(UserError, match=r"/processor_config\.json is not readable JSON"):
        load_classifier(folder)


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        ("timm resnet", "layer4.1.conv1.weight", None, r"1 tensors are missing \(layer4\.1\.conv1\.weight\)"),
        (
            "timm resnet",
            "layer5.0.conv1.weight",
            np.zeros(3, np.float32),
            r"no place in the model \(layer5\.0\.conv1\.weight\)",
        ),
        ("timm resnet", "fc.weight", np.zeros((4, 32), np.float32), r"fc\.weight has shape \[4, 32\].+\[5, 32\]"),
        ("timm vit", "blocks.1.attn.qkv.weight", None, r"\(blocks\.1\.attn\.qkv\.weight"),
        ("timm vit", "pos_embed", np.zeros((1, 50, 32), np.float32), r"pos_embed has shape \[1, 50, 32\]"),
        ("timm deit", "head_dist.bias", None, r"1 tensors are missing \(head_dist\.bias\)"),
        ("timm deit", "head_dist.weight", np.zeros((5, 31), np.float32), r"head_dist\.weight"),
        ("transformers deit", "cls_classifier.weight", None, r"1 tensors are missing \(cls_classifier\.weight\)"),
        ("transformers vit", "vit.embeddings.cls_token", np.full((1, 1, 32), np.nan, np.float32), r"cls_token holds NaN"),
        ("clip", "logit_scale", None, r"logit_scale must hold one finite number"),
        ("clip", "text_model.final_layer_norm.weight", None, r"text_model\.final_layer_norm\.weight"),
        ("clip", "vision_model.pre_layrnorm.bias", None, r"vision_model\.pre_layrnorm\.bias"),
        ("clip", "audio_model.weight", np.zeros(3, np.float32), r"no place in the model \(audio_model\.weight\)"),
    ],
)
def test_a_damaged_tensor_is_named_as_the_file_names_it(copied: Any, kind: str, name: str, value: Any, words: str) -> None:
    folder = copied(kind)
    tensors = dict(load_file(folder / "model.safetensors"))
    tensors.pop(name, None)
    save_file(tensors | ({} if value is None else {name: value}), folder / "model.safetensors")
    names = {"class_names": ["cat", "dog"]} if kind == "clip" else {}
    with pytest.raises(UserError, match=words) as error:
        load_classifier(folder, **names)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("layer_norm_eps", None), ("eos_token_id", "a"), ("hidden_size", 0)])
def test_a_wrong_text_config_is_told_in_one_sentence(copied: Any, key: str, value: Any) -> None:
    folder = copied("clip")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    with pytest.raises(UserError, match=rf"config\.json: text_config: {key} is {value!r}; expected a positive"):
        load_classifier(_edit(folder, text_config={**text, key: value}), class_names=["cat"])


def test_wrong_calls_are_told(folders: dict[str, Path], copied: Any) -> None:
    vit, clip = folders["timm vit"], folders["clip"]
    for folder, options, words in (
        (vit, {"class_names": ["cat"]}, "is not a CLIP model, so class_names"),
        (clip, {"class_names": ["cat", "dog"], "num_classes": 3}, "num_classes is 3, but class_names holds 2"),
        (clip, {"class_names": ["cat", "cat"]}, "holds 'cat' twice"),
        (clip, {"class_names": []}, "give a list of names"),
        (clip, {"class_names": ["cat"], "templates": ["a photo"]}, r"each should hold \{\} once"),
        (clip, {"templates": ["a {}"]}, "templates are given without class_names"),
        (clip, {"class_names": ["cat"], "pretrained": False}, "needs pretrained weights"),
        (vit, {"image_size": 4}, "an image of 4 pixels holds no patch of 8"),
        (vit, {"image_size": 0}, "image_size is 0"),
        (vit, {"num_classes": 0}, "num_classes is 0; a classifier needs at least 1 class"),
        (vit, {"num_classes": "3"}, "num_classes is '3'; a classifier needs at least 1 class, give a whole number"),
        (vit, {"num_classes": 2.5}, r"num_classes is 2\.5; "),
        (vit, {"num_classes": True}, "num_classes is True; "),
        (vit, {"seed": "x"}, "seed is 'x'; give a whole number"),
        (clip, {"class_names": 5}, "class_names is 5; give a list of strings"),
        (clip, {"class_names": ["cat", 5]}, r"class_names is \['cat', 5\]; give a list of names"),
        (clip, {"class_names": ["cat"], "templates": 3}, "templates is 3; give a list of strings"),
    ):
        with pytest.raises(UserError, match=words):
            load_classifier(folder, **options)
    with pytest.raises(UserError, match=r"no classes of its own, .+ class_names \(zero-shot\) or num_classes"):
        load_classifier(clip)(_images(32))
    model = load_classifier(clip, class_names=np.array(["cat", "dog"]))
    assert model.class_names == ("cat", "dog")
    for wrong in (None, 5):
        with pytest.raises(UserError, match=f"texts is {wrong}; give a list of strings"):
            model.encode_text(wrong)
    with pytest.raises(UserError, match="prompt 1 is not a string"):
        model.encode_text([1])
    pickled = copied("timm resnet")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle, which could run code and is not read"):
        load_classifier(pickled)


def test_a_hub_name_is_read_from_the_cache_without_a_network(folders: dict[str, Path], tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "hub" / "models--someone--small-vit"
    shutil.copytree(folders["timm vit"], model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    code = (
        "from bridgejax.models import load_classifier\n"
        "from bridgejax.errors import UserError\n"
        "print(load_classifier('someone/small-vit').num_classes)\n"
        "try:\n    load_classifier('someone/other')\nexcept UserError as error:\n    print(error)\n"
    )
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.strip().splitlines()
    assert first == "5"
    assert "the hub could not give a model of that name" in second
