"""Backbones against timm and transformers, on random weights of reduced size, from the folders that those libraries write."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.reduced.generator import write_tokenizer
from bridgejax.models import load_classifier, save_classifier
from bridgejax.models.safetensors_files import read_tensors
from bridgejax.models.weights import export
from tests.models.originals import CLASSES, both, rounding, timm_folder, transformers_folder

pytestmark = pytest.mark.parity

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "patch_size": 8,
    "image_size": 32,
}
TIMM_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 1.5, "patch_size": 8, "img_size": 32}
RESNET = {"depths": [2, 1, 1], "hidden_sizes": [16, 24, 32], "embedding_size": 8}
TEXT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "vocab_size": 514}
IDS = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}

# name → (writer of the folder, which returns the original; sides of the images)
CASES: dict[str, tuple[Callable[[Path], Any], tuple[int, ...]]] = {
    "timm resnet18": (lambda f: timm_folder(f, "resnet18", layers=(2, 1, 1, 1), channels=(8, 16, 24, 32)), (64, 75)),
    "timm resnet50": (lambda f: timm_folder(f, "resnet50", layers=(1, 2, 1, 1), channels=(8, 8, 16, 16)), (64, 75)),
    "transformers resnet-18": (lambda f: transformers_folder(f, "ResNet", **RESNET, layer_type="basic"), (64,)),
    "transformers resnet-50": (lambda f: transformers_folder(f, "ResNet", **RESNET, layer_type="bottleneck"), (64,)),
    "transformers resnet, early strides": (
        lambda f: transformers_folder(f, "ResNet", **RESNET, downsample_in_bottleneck=True, downsample_in_first_stage=True),
        (64,),
    ),
    "timm vit": (lambda f: timm_folder(f, "vit_small_patch16_224", **TIMM_VIT, dynamic_img_size=True), (32, 48, 24)),
    "timm deit": (lambda f: timm_folder(f, "deit_small_patch16_224", **TIMM_VIT), (32,)),
    "timm deit, distilled": (
        lambda f: timm_folder(f, "deit_small_distilled_patch16_224", **TIMM_VIT, dynamic_img_size=True),
        (32, 40),
    ),
    "timm vit, tanh gelu": (lambda f: timm_folder(f, "vit_small_patch16_224", **TIMM_VIT, act_layer="gelu_tanh"), (32,)),
    "timm clip tower": (lambda f: timm_folder(f, "vit_base_patch32_clip_quickgelu_224", **TIMM_VIT), (32,)),
    "transformers vit": (lambda f: transformers_folder(f, "ViT", **VIT), (32, 48, 24)),
    **{
        f"transformers vit, {name}": (lambda f, name=name: transformers_folder(f, "ViT", **VIT, hidden_act=name), (32,))
        for name in ("gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu")
    },
    "transformers resnet, gelu": (lambda f: transformers_folder(f, "ResNet", **RESNET, hidden_act="gelu"), (64,)),
    "transformers deit": (lambda f: transformers_folder(f, "DeiT", **VIT), (32, 48)),
    "transformers deit, distilled": (
        lambda f: transformers_folder(f, "DeiT", "ForImageClassificationWithTeacher", **VIT),
        (32, 48),
    ),
}


def _logits(model: Any, x: Any) -> Any:
    if hasattr(model, "forward_features"):
        return model(x)
    resizes = {} if model.config.model_type == "resnet" else {"interpolate_pos_encoding": True}
    return model(x, **resizes).logits


def _features(model: Any, x: Any) -> Any:
    """What the head sees, as the original has it (both tokens side by side for a distilled DeiT)."""
    import torch

    if hasattr(model, "forward_features"):
        if hasattr(model, "head_dist"):
            return torch.cat(list(model.forward_features(x)[:, :2].swapaxes(0, 1)), -1)
        return model.forward_head(model.forward_features(x), pre_logits=True)
    if model.config.model_type == "resnet":
        return model.resnet(x).pooler_output.flatten(1)
    tokens = model.base_model(x, interpolate_pos_encoding=True).last_hidden_state
    return tokens[:, :2].flatten(1) if hasattr(model, "distillation_classifier") else tokens[:, 0]


def _images(size: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(size).normal(0, 1, (count, size, size, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    made: dict[str, tuple[Path, Any]] = {}

    def get(name: str) -> tuple[Path, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp("classifier")
            made[name] = folder, CASES[name][0](folder)
        return made[name]

    return get


@pytest.mark.parametrize("name", CASES)
def test_logits_and_features_match_the_original_at_every_size(folders: Any, name: str) -> None:
    folder, original = folders(name)
    model = load_classifier(folder)
    assert model.num_classes == CLASSES
    run = nnx.jit(lambda m, x: (m(x), m.features(x)))
    for size in CASES[name][1]:
        images = _images(size)
        for ours, theirs in zip(run(model, images), (_logits, _features), strict=True):
            single, exact = both(theirs, original, images)
            assert ours.shape == exact.shape
            assert exact.std() > 0.05
            error = float(np.abs(np.asarray(ours) - exact).max())
            print(f"{name} | {size} | {theirs.__name__[1:]} | {error:.1e} | {np.abs(single - exact).max():.1e}")
            assert error <= rounding(single, exact)


@pytest.mark.parametrize("name", ["timm vit", "transformers vit", "timm deit, distilled"])
def test_positions_made_for_another_size_give_what_resampling_on_the_way_gives(folders: Any, name: str) -> None:
    folder, _ = folders(name)
    size = 48
    model, resized = load_classifier(folder), load_classifier(folder, image_size=size)
    assert resized.preprocessing.size == size
    assert resized.positions[...].shape[1] == model.config.prefix + (size // 8) ** 2
    run = nnx.jit(lambda m, x: m(x))
    np.testing.assert_allclose(run(resized, _images(size)), run(model, _images(size)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["timm resnet18", "transformers resnet-50"])
@pytest.mark.parametrize("mode", ["train", "frozen"])
def test_gradients_and_batch_statistics_match_the_original(folders: Any, name: str, mode: str) -> None:
    """In float64 on both sides, so that no activation lies on the other side of a bend by rounding."""
    import torch

    folder, original = folders(name)
    images, labels = _images(48, 4), np.arange(4) % CLASSES
    original = copy.deepcopy(original).double().train(mode == "train")
    loss = torch.nn.functional.cross_entropy(
        _logits(original, torch.from_numpy(images.transpose(0, 3, 1, 2)).double()), torch.from_numpy(labels)
    )
    loss.backward()
    expected = {key: parameter.grad.numpy() for key, parameter in original.named_parameters()}
    with jax.enable_x64(True):
        model = load_classifier(folder)
        model.train() if mode == "train" else model.eval()
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        params, rest = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, rest))

        @jax.jit
        def run(params: nnx.State, x: jax.Array) -> Any:
            def mean_loss(params: nnx.State) -> Any:
                module = nnx.merge(graph, params, rest, copy=True)
                log_probabilities = jax.nn.log_softmax(module(x))
                return -log_probabilities[jnp.arange(len(labels)), labels].mean(), nnx.state(module, nnx.BatchStat)

            return jax.value_and_grad(mean_loss, has_aux=True)(params)

        (value, statistics), gradients = run(params, jnp.asarray(images, jnp.float64))
        got = export(nnx.merge(graph, gradients, statistics), _rules(model))
    # Float64 rounding (1e-16) times the network's conditioning, at most 1e6 here.
    assert abs(float(value) - loss.item()) <= 1e-10 * loss.item()
    whole = np.sqrt(sum(float((array**2).sum()) for array in expected.values()))
    for key, array in expected.items():
        assert np.linalg.norm(got[key] - array) <= 1e-9 * (np.linalg.norm(array) + 1e-3 * whole), key
    for key, after in original.state_dict().items():
        if "running_" in key:
            assert np.abs(got[key] - after.numpy()).max() <= 1e-10 * np.abs(after.numpy()).max(), key


@pytest.mark.parametrize("name", ["timm deit, distilled", "transformers deit, distilled"])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_both_heads_of_a_distilled_network_train_as_in_the_original(folders: Any, name: str, kind: str) -> None:
    """Five steps on the mean of the two heads."""
    import torch

    from bridgejax.training import TrainState, make_optimizer, make_train_step

    folder, original = folders(name)
    original = copy.deepcopy(original)
    if kind == "sgd":
        theirs = torch.optim.SGD(original.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        ours = make_optimizer("sgd", learning_rate=0.01, momentum=0.9, weight_decay=5e-4)
    else:
        theirs = torch.optim.AdamW(original.parameters(), lr=1e-3, weight_decay=0.1)
        ours = make_optimizer("adamw", learning_rate=1e-3, weight_decay=0.1)
    state, step = TrainState.create(load_classifier(folder), ours, seed=0), make_train_step()
    for number in range(5):
        images, labels = _images(32, 4 + number)[:4], np.arange(4) % CLASSES
        state, _ = step(state, {"image": images, "label": labels})
        theirs.zero_grad()
        logits = _logits(original, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
        theirs.step()
    single, _ = both(_logits, original, _images(32))
    after = np.asarray(nnx.jit(lambda m, x: m(x))(state.model, _images(32)))
    assert np.abs(after - single).max() <= 1e-5 * np.abs(single).max()
    held = dict(original.named_parameters())
    for key, array in export(state.model, _rules(state.model)).items():
        if "head" in key or "classifier" in key:
            expected = held[key].detach().numpy()
            assert np.abs(array - expected).max() <= 1e-5 * np.abs(expected).max(), key


def _rules(model: Any) -> Any:
    from bridgejax.models.published import layout_of

    return layout_of(model).rules


@pytest.mark.parametrize("name", CASES)
def test_saved_folders_hold_the_published_tensors_and_open_in_the_library(folders: Any, name: str, tmp_path: Path) -> None:
    folder, original = folders(name)
    model = load_classifier(folder)
    save_classifier(model, tmp_path / "copy")
    before, after = (read_tensors(path) for path in (folder, tmp_path / "copy"))
    assert set(before) == set(after)
    for key in before:
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(before[key], after[key])
    images = _images(32)
    reopened = _reopen(tmp_path / "copy", original)
    single, exact = both(_logits, reopened, images)
    np.testing.assert_allclose(exact, both(_logits, original, images)[1], rtol=1e-6, atol=1e-6)
    again = load_classifier(tmp_path / "copy")
    assert again.preprocessing == model.preprocessing
    assert nnx.graphdef(again) == nnx.graphdef(model)
    assert np.abs(np.asarray(nnx.jit(lambda m, x: m(x))(again, images)) - exact).max() <= rounding(single, exact)


def _reopen(folder: Path, original: Any) -> Any:
    from tests.models.originals import import_timm

    if hasattr(original, "forward_features"):
        return import_timm().create_model(f"local-dir:{folder}", pretrained=True).eval()
    loaded, told = type(original).from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    return loaded.eval()


def test_a_new_head_replaces_the_files_and_a_bare_vit_needs_one(tmp_path: Path) -> None:
    from bridgejax.errors import UserError

    original = transformers_folder(tmp_path, "ViT", "Model", **VIT)
    with pytest.raises(UserError, match="without a head; give num_classes"):
        load_classifier(tmp_path)
    model = load_classifier(tmp_path, num_classes=7)
    single, exact = both(lambda m, x: m(x).last_hidden_state[:, 0], original, _images(32))
    features, logits = nnx.jit(lambda m, x: (m.features(x), m(x)))(model, _images(32))
    assert np.abs(np.asarray(features) - exact).max() <= rounding(single, exact)
    assert logits.shape == (3, 7)
    assert np.asarray(logits).std() > 0


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = write_tokenizer(tmp_path_factory.mktemp("clip"))
    parts = {"vision_config": {**VIT, "num_attention_heads": 2}, "text_config": {**TEXT, **IDS}, "projection_dim": 20}
    return folder, transformers_folder(folder, "CLIP", "Model", **parts)


NAMES, TEMPLATES = ["tabby cat", "dog", "steam engine"], ["a photo of a {}.", "a drawing of a {}."]


def _text_inputs(folder: Path, texts: list[str]) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")


def test_clip_embeddings_and_zero_shot_logits_match_the_original(clip_folder: tuple[Path, Any]) -> None:
    import torch

    folder, original = clip_folder
    clip = load_classifier(folder, class_names=NAMES, templates=TEMPLATES)
    tokens = _text_inputs(folder, [template.format(name) for name in NAMES for template in TEMPLATES])

    def texts(model: Any, _: Any = None) -> Any:
        return model.get_text_features(**tokens).pooler_output

    def pictures(model: Any, x: Any) -> Any:
        return model.get_image_features(x, interpolate_pos_encoding=True).pooler_output

    def zero_shot(model: Any, x: Any) -> Any:
        unit = torch.nn.functional.normalize
        columns = unit(unit(texts(model)).reshape(len(NAMES), len(TEMPLATES), -1).mean(1))
        return model.logit_scale.exp() * unit(pictures(model, x)) @ columns.T

    ours_text = clip.encode_text([template.format(name) for name in NAMES for template in TEMPLATES])
    run = nnx.jit(lambda m, x: (m.encode_image(x), m(x)))
    for size in (32, 48):
        images = _images(size)
        results = (ours_text, *run(clip, images))
        for name, mine, theirs in zip(("texts", "images", "logits"), results, (texts, pictures, zero_shot), strict=True):
            single, exact = both(theirs, original, images)
            error = float(np.abs(np.asarray(mine) - exact).max())
            print(f"transformers clip | {size} | {name} | {error:.1e} | {np.abs(single - exact).max():.1e}")
            assert error <= rounding(single, exact), name
    # One template: the logits of CLIPModel itself.
    plain = load_classifier(folder, class_names=NAMES)
    inputs = _text_inputs(folder, [f"a photo of a {name}." for name in NAMES])
    single, exact = both(lambda m, x: m(**inputs, pixel_values=x).logits_per_image, original, _images(32))
    assert np.abs(np.asarray(run(plain, _images(32))[1]) - exact).max() <= rounding(single, exact)


def test_a_clip_folder_as_its_processor_saves_it_is_read(clip_folder: tuple[Path, Any], tmp_path: Path) -> None:
    import transformers

    folder, original = clip_folder
    original.save_pretrained(tmp_path)
    sides = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    images = transformers.CLIPImageProcessor(**sides)
    transformers.CLIPProcessor(images, transformers.CLIPTokenizer.from_pretrained(folder)).save_pretrained(tmp_path)
    clip = load_classifier(tmp_path, class_names=NAMES)
    assert clip.preprocessing.mean == tuple(images.image_mean)
    assert (clip.preprocessing.size, clip.preprocessing.crop) == (32, 32 / 36)
    np.testing.assert_array_equal(clip.head.kernel[...], load_classifier(folder, class_names=NAMES).head.kernel[...])


def test_a_clip_tower_with_a_new_head_is_timms_network_of_the_same_parts(clip_folder: tuple[Path, Any], tmp_path: Path) -> None:
    from tests.models.originals import import_timm

    folder, original = clip_folder
    model = load_classifier(folder, num_classes=6)
    images = _images(32)
    features, logits = nnx.jit(lambda m, x: (m.features(x), m(x)))(model, images)
    single, exact = both(lambda m, x: m.vision_model(x).pooler_output, original, images)
    assert np.abs(np.asarray(features) - exact).max() <= rounding(single, exact)
    save_classifier(model, tmp_path)
    reopened = import_timm().create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    single, exact = both(_logits, reopened, images)
    assert np.abs(np.asarray(logits) - exact).max() <= rounding(single, exact)
    larger = _images(48)  # resampled as transformers does it, also after saving
    run = nnx.jit(lambda m, x: m(x))
    np.testing.assert_array_equal(run(load_classifier(tmp_path), larger), run(model, larger))


def test_a_saved_zero_shot_clip_keeps_its_head_and_opens_in_transformers(clip_folder: tuple[Path, Any], tmp_path: Path) -> None:
    from transformers import CLIPModel

    folder, original = clip_folder
    clip = load_classifier(folder, class_names=NAMES, templates=TEMPLATES)
    save_classifier(clip, tmp_path / "clip")
    again = load_classifier(tmp_path / "clip")
    assert (again.class_names, again.templates) == (tuple(NAMES), tuple(TEMPLATES))
    np.testing.assert_array_equal(again.head.kernel[...], clip.head.kernel[...])
    np.testing.assert_array_equal(again.encode_text(NAMES), clip.encode_text(NAMES))
    loaded, told = CLIPModel.from_pretrained(tmp_path / "clip", output_loading_info=True)
    assert not told["missing_keys"]
    assert set(told["unexpected_keys"]) == {"classifier.weight", "classifier.bias"}
    theirs = loaded.state_dict()
    assert all((value == theirs[key]).all() for key, value in original.state_dict().items())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("vit_small_patch16_224", 22_050_664),
        ("vit_base_patch16_224", 86_567_656),
        ("vit_large_patch16_224", 304_326_632),
        ("vit_base_patch16_384", 86_859_496),
        ("deit_small_patch16_224", 22_050_664),
        ("deit_small_distilled_patch16_224", 22_436_432),
        ("vit_base_patch32_clip_quickgelu_224", 88_225_000),
        ("vit_large_patch14_clip_quickgelu_336", 304_532_456),
    ],
)
def test_every_tensor_of_the_full_size_networks_has_its_place(name: str, parameters: int, tmp_path: Path) -> None:
    """timm's own config and tensor shapes, without values: nothing is missing, nothing is left over, all shapes fit."""
    import json

    import torch

    from bridgejax.models.published import classifier_spec
    from bridgejax.models.weights import assign
    from tests.models.originals import import_timm

    timm = import_timm()
    from timm.models._hub import save_config_for_hf

    with torch.device("meta"):
        original = timm.create_model(name, num_classes=1000)
    assert sum(value.numel() for value in original.parameters()) == parameters
    save_config_for_hf(original, str(tmp_path / "config.json"))
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == name
    found = classifier_spec(tmp_path)
    abstract = nnx.eval_shape(lambda: found.build(found.num_classes, nnx.Rngs(0)))
    empty = {key: np.broadcast_to(np.float32(0), tuple(value.shape)) for key, value in original.state_dict().items()}
    tensors = found.layout.read(empty)

    def put(path: str, shape: Any, dtype: Any, read: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    model = assign(abstract, tensors, found.layout.rules, name, put=put)
    assert found.preprocessing.size == original.pretrained_cfg["input_size"][-1]
    held = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert held == parameters
