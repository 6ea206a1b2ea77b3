"""Image and text towers against the PyTorch originals, on random weights of reduced size: CLIP, SigLIP and DINOv2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

pytest.importorskip("torch")

from bridgejax.models import load_classifier, save_classifier
from bridgejax.models.safetensors_files import read_tensors
from tests.models.openai_clip import OpenAICLIP, open_clip_folder, tokenize
from tests.models.originals import both, randomise, rounding, transformers_folder
from tests.models.siglip_folders import write_gemma, write_unigram

pytestmark = pytest.mark.parity

DINOV2 = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "patch_size": 7,
    "image_size": 28,
}
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
VISION = {**TOWER, "patch_size": 8, "image_size": 32}
TEXT = {**TOWER, "hidden_size": 32, "vocab_size": 64, "max_position_embeddings": 64, "num_hidden_layers": 1}
NAMES, TEMPLATES = ["tabby cat", "dog", "steam engine"], ["a photo of a {}.", "a drawing of a {}."]
RUN = nnx.jit(lambda model, x: (model.features(x), model(x)))
EMBED = nnx.jit(lambda model, x: model.encode_image(x))


def _images(size: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(size).normal(0, 1, (count, size, size, 3)).astype(np.float32)


def _agree(name: str, compared: str, ours: Any, run: Any, original: Any, images: np.ndarray) -> None:
    """Within four times what float32 costs the original itself, and within 1e-4 relative."""
    single, exact = both(run, original, images)
    error = float(np.abs(np.asarray(ours) - exact).max())
    print(f"\n| {name} | {images.shape[1]} | {compared} | {error:.1e} | {np.abs(single - exact).max():.1e} |")
    assert error <= min(rounding(single, exact), 1e-4 * float(np.abs(exact).max())), (name, compared)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("swiglu", [False, True])
def test_dinov2_features_and_positions_of_other_sizes_match(registers: int, swiglu: bool, tmp_path: Path) -> None:
    family, extra = ("Dinov2WithRegisters", {"num_register_tokens": registers}) if registers else ("Dinov2", {})
    name = f"transformers {family.lower()}" + (", swiglu" if swiglu else "")
    original = transformers_folder(tmp_path, family, "Model", **DINOV2, **extra, use_swiglu_ffn=swiglu)
    assert any("mask_token" in name for name in read_tensors(tmp_path))
    model = load_classifier(tmp_path, num_classes=3)
    assert (model.feature_width, model.preprocessing.size) == (32, 32)
    for size in (28, 42, 21):
        _agree(name, "features", RUN(model, _images(size))[0], lambda m, x: m(x).pooler_output, original, _images(size))
    save_classifier(model, tmp_path / "saved")
    again = load_classifier(tmp_path / "saved")
    np.testing.assert_array_equal(RUN(again, _images(28))[1], RUN(model, _images(28))[1])
    assert again.preprocessing == model.preprocessing
    import transformers

    kind = getattr(transformers, f"{family}ForImageClassification")
    reopened, told = kind.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    _agree(f"{name}, saved", "logits", RUN(model, _images(28))[1], lambda m, x: m(x).logits, reopened.eval(), _images(28))


@pytest.mark.parametrize("family", ["Dinov2", "Dinov2WithRegisters"])
def test_a_published_dinov2_classifier_sees_the_mean_of_its_patches_too(family: str, tmp_path: Path) -> None:
    original = transformers_folder(tmp_path, family, **DINOV2)
    model = load_classifier(tmp_path)
    assert model.feature_width == 64
    _agree(
        f"transformers {family.lower()}, classifier",
        "logits",
        RUN(model, _images(28))[1],
        lambda m, x: m(x).logits,
        original,
        _images(28),
    )
    save_classifier(model, tmp_path / "saved")
    again = load_classifier(tmp_path / "saved")
    np.testing.assert_array_equal(RUN(again, _images(28))[1], RUN(model, _images(28))[1])


def siglip_folder(folder: Path, write: Any) -> Any:
    import transformers

    write(folder)
    settings = transformers.SiglipConfig(vision_config=VISION, text_config=TEXT)
    model = randomise(transformers.SiglipModel(settings))
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.SiglipImageProcessor(size=size).save_pretrained(folder)
    return model


@pytest.mark.parametrize("write", [write_unigram, write_gemma])
def test_siglip_matches_stage_by_stage(write: Any, tmp_path: Path) -> None:
    import torch

    name = "transformers siglip" if write is write_unigram else "transformers siglip 2"
    original = siglip_folder(tmp_path, write)
    clip = load_classifier(tmp_path)
    prompts = ["a photo of a cat", "dog", "a " * 80]
    with pytest.warns(UserWarning, match="was cut"):
        texts = clip.encode_text(prompts)
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    reader.enable_truncation(64)
    reader.enable_padding(length=64, pad_id=0 if write is write_gemma else 1)
    ids = torch.tensor([encoding.ids for encoding in reader.encode_batch([prompt.strip() for prompt in prompts])])
    _agree(name, "texts", texts, lambda m, x: m.get_text_features(input_ids=ids).pooler_output, original, _images(32))
    for size in (32, 48, 24):
        run = lambda m, x: m.get_image_features(x, interpolate_pos_encoding=True).pooler_output  # noqa: E731
        _agree(name, "images", EMBED(clip, _images(size)), run, original, _images(size))
    clip = load_classifier(tmp_path, class_names=["cat", "dog"], templates=["a photo of a {}"])
    ids = torch.tensor([encoding.ids for encoding in reader.encode_batch(["a photo of a cat", "a photo of a dog"])])
    logits = RUN(clip, _images(32))[1]
    _agree(name, "logits", logits, lambda m, x: m(input_ids=ids, pixel_values=x).logits_per_image, original, _images(32))
    assert (clip.logit_scale, clip.logit_bias) == (1.5, float(original.logit_bias[0].detach()))
    assert (clip.feature_width, clip.preprocessing.mean) == (32, (0.5, 0.5, 0.5))


def test_a_saved_siglip_opens_in_transformers_and_its_tower_here(tmp_path: Path) -> None:
    import transformers

    original = siglip_folder(tmp_path, write_unigram)
    clip = load_classifier(tmp_path, class_names=NAMES)
    save_classifier(clip, tmp_path / "saved")
    again = load_classifier(tmp_path / "saved")
    assert (again.class_names, again.preprocessing) == (clip.class_names, clip.preprocessing)
    np.testing.assert_array_equal(RUN(again, _images(32))[1], RUN(clip, _images(32))[1])
    np.testing.assert_array_equal(again.encode_text(NAMES), clip.encode_text(NAMES))
    loaded, told = transformers.SiglipModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not told["missing_keys"]
    assert set(told["unexpected_keys"]) == {"classifier.weight", "classifier.bias"}
    theirs = loaded.state_dict()
    assert all((value == theirs[key]).all() for key, value in original.state_dict().items())
    tower = load_classifier(tmp_path, num_classes=4)
    _agree(
        "transformers siglip, tower",
        "features",
        RUN(tower, _images(32))[0],
        lambda m, x: m.vision_model(x).pooler_output,
        original,
        _images(32),
    )
    save_classifier(tower, tmp_path / "tower")
    alone = load_classifier(tmp_path / "tower")
    np.testing.assert_array_equal(RUN(alone, _images(32))[1], RUN(tower, _images(32))[1])


def _zero_shot(model: Any, x: Any) -> Any:
    import torch

    unit = torch.nn.functional.normalize
    texts = unit(model.encode_text(tokenize([text.format(name) for name in NAMES for text in TEMPLATES])))
    columns = unit(texts.reshape(len(NAMES), len(TEMPLATES), -1).mean(1))
    return model.logit_scale.exp() * unit(model.encode_image(x)) @ columns.T


@pytest.mark.parametrize(("kind", "size", "quick"), [("vit", 32, False), ("vit", 32, True), ("resnet", 64, False)])
def test_open_clip_folders_match_stage_by_stage(kind: str, size: int, quick: bool, tmp_path: Path) -> None:
    original = open_clip_folder(tmp_path, kind, quick=quick)
    _compare(f"OpenCLIP {kind}" + (", quick gelu" if quick else ""), tmp_path, original, size)
    clip = load_classifier(tmp_path, class_names=NAMES)
    assert (clip.preprocessing.size, clip.preprocessing.mean, clip.preprocessing.std) == (
        size,
        (0.4, 0.5, 0.6),
        (0.2, 0.3, 0.4),
    )


@pytest.mark.parametrize(("kind", "size"), [("vit", 32), ("resnet", 64)])
def test_openais_own_weights_are_read_without_a_config(kind: str, size: int, tmp_path: Path, monkeypatch: Any) -> None:
    from safetensors.torch import load_file, save_file

    from tests.models import openai_clip

    # All that OpenAI published has heads of 64.
    monkeypatch.setattr(openai_clip, "TEXT", {**openai_clip.TEXT, "width": 64, "heads": 1})
    monkeypatch.setattr(openai_clip, "VIT", {**openai_clip.VIT, "width": 128, "head_width": 64})
    original = open_clip_folder(tmp_path, kind, quick=True)
    tensors = load_file(tmp_path / "open_clip_model.safetensors")
    tensors |= {"input_resolution": __import__("torch").tensor(size), "vocab_size": __import__("torch").tensor(514)}
    (tmp_path / "open_clip_config.json").unlink()
    (tmp_path / "open_clip_model.safetensors").unlink()
    save_file(tensors, tmp_path / f"{kind}.safetensors")
    _compare(f"OpenAI {kind}", tmp_path, original, size)


def _compare(name: str, folder: Path, original: OpenAICLIP, size: int) -> None:
    clip = load_classifier(folder)
    assert clip.feature_width == 20
    images = _images(size)
    texts = ["a photo of a cat.", "dog"]
    _agree(name, "texts", clip.encode_text(texts), lambda m, x: m.encode_text(tokenize(texts)), original, images)
    _agree(name, "images", EMBED(clip, images), lambda m, x: m.encode_image(x), original, images)
    clip = load_classifier(folder, class_names=NAMES, templates=TEMPLATES)
    _agree(name, "logits", RUN(clip, images)[1], _zero_shot, original, images)


def test_the_stem_and_stages_of_a_modified_resnet_match(tmp_path: Path) -> None:
    import torch

    original = open_clip_folder(tmp_path, "resnet")
    clip = load_classifier(tmp_path)
    stages = [original.visual.stem]
    stages += [getattr(original.visual, f"layer{number}") for number in range(1, 5)]
    x = torch.from_numpy(_images(64).transpose(0, 3, 1, 2).copy())
    ours = _images(64)
    depths, done = [0, *clip.config.depths], 0
    from bridgejax.models.clip_resnet import average_pool

    def stem(images: Any) -> Any:
        y = images
        for conv, norm in ((clip.conv1, clip.bn1), (clip.conv2, clip.bn2), (clip.conv3, clip.bn3)):
            y = nnx.relu(norm(conv(y)))
        return average_pool(y, 2)

    for depth, stage in zip(depths, stages, strict=True):
        with torch.no_grad():
            x = stage(x)
        ours = stem(ours) if not depth else ours
        for block in list(clip.blocks)[done : done + depth]:
            ours = block(ours)
        done += depth
        theirs = x.numpy().transpose(0, 2, 3, 1)
        assert np.abs(np.asarray(ours) - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_saved_open_clip_models_open_again(tmp_path: Path) -> None:
    for kind, size in (("vit", 32), ("resnet", 64)):
        folder = tmp_path / kind
        folder.mkdir()
        original = open_clip_folder(folder, kind)
        clip = load_classifier(folder, class_names=NAMES)
        save_classifier(clip, tmp_path / f"{kind} saved")
        again = load_classifier(tmp_path / f"{kind} saved")
        np.testing.assert_array_equal(RUN(again, _images(size))[1], RUN(clip, _images(size))[1])
        np.testing.assert_array_equal(again.encode_text(NAMES), clip.encode_text(NAMES))
        tower = load_classifier(folder, num_classes=4)
        save_classifier(tower, tmp_path / f"{kind} tower")
        alone = load_classifier(tmp_path / f"{kind} tower")
        np.testing.assert_array_equal(RUN(alone, _images(size))[1], RUN(tower, _images(size))[1])
        if kind == "resnet":
            saved = read_tensors(tmp_path / "resnet saved" / "open_clip_model.safetensors")
            theirs = {name: value.numpy() for name, value in original.state_dict().items()}
            assert set(saved) - set(theirs) == {"classifier.weight", "classifier.bias"}
            for name, array in theirs.items():
                if not name.endswith("num_batches_tracked"):
                    np.testing.assert_array_equal(saved[name], array, err_msg=name)
            config = json.loads((tmp_path / "resnet saved" / "open_clip_config.json").read_text())
            before = json.loads((folder / "open_clip_config.json").read_text())
            for part in ("vision_cfg", "text_cfg"):
                assert config["model_cfg"][part].items() >= before["model_cfg"][part].items()
        else:
            from transformers import CLIPModel

            loaded, told = CLIPModel.from_pretrained(tmp_path / "vit saved", output_loading_info=True)
            assert not told["missing_keys"]
            run = lambda m, x: m.get_image_features(x).pooler_output if hasattr(m, "get_image_features") else m.encode_image(x)  # noqa: E731
            exact = both(run, loaded.eval(), _images(32))[1]
            assert np.abs(exact - both(run, original, _images(32))[1]).max() <= 1e-5 * np.abs(exact).max()
