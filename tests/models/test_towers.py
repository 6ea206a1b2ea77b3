"""Two-tower models and DINOv2 without PyTorch: embeddings, tokenizers, saved folders, and what a wrong folder says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from bridgejax.errors import UserError
from bridgejax.models import load_classifier, reset_blocks, save_classifier
from bridgejax.models.registry import abstract_classifier, classifier_digest
from bridgejax.models.siglip_tokenizer import SigLIPTokenizer
from tests.models.siglip_folders import PIECES, write_gemma, write_sentencepiece, write_unigram
from tests.small_backbones import MEAN, TWO_TOWERS, write_clip, write_dinov2

RUN = nnx.jit(lambda model, x: model(x))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("towers")
    return {kind: write_clip(root / kind.replace(" ", "-"), kind) for kind in TWO_TOWERS}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Any:
    return lambda kind: Path(shutil.copytree(folders[kind], tmp_path / "copy"))


def _images(size: int = 64, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (count, size, size, 3)).astype(np.float32)


def _unit(vectors: Any) -> np.ndarray:
    return np.asarray(vectors) / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("kind", TWO_TOWERS)
def test_embeddings_need_no_class_names_and_explain_the_logits(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    plain = load_classifier(folders[kind])
    width = plain.feature_width
    assert (plain.num_classes, plain.logit_scale, plain.logit_bias) == (0, 2.0, -3.0 if kind == "siglip" else 0.0)
    images, texts = nnx.jit(lambda m, x: m.encode_image(x))(plain, _images()), plain.encode_text(["a cat", "a dog"])
    assert (images.shape, texts.shape) == ((2, width), (2, width))
    with pytest.raises(UserError, match="no classes of its own"):
        plain(_images())
    named = load_classifier(folders[kind], class_names=["cat", "dog"], templates="a {}")
    logits = np.exp(plain.logit_scale) * _unit(images) @ _unit(texts).T + plain.logit_bias
    np.testing.assert_allclose(RUN(named, _images()), logits, rtol=1e-4, atol=1e-4)
    save_classifier(named, tmp_path)
    again = load_classifier(tmp_path)
    assert (again.class_names, again.preprocessing.mean) == (("cat", "dog"), plain.preprocessing.mean)
    np.testing.assert_array_equal(RUN(again, _images()), RUN(named, _images()))


@pytest.mark.parametrize("kind", TWO_TOWERS)
def test_an_image_tower_takes_a_new_head_and_is_saved_with_it(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        assert not (tmp_path / name).exists()
    tower = load_classifier(folders[kind], num_classes=3, seed=1)
    reset_blocks(tower, 1, 5)
    save_classifier(tower, tmp_path)
    again = load_classifier(tmp_path)
    assert nnx.graphdef(again) == nnx.graphdef(tower)
    np.testing.assert_array_equal(RUN(again, _images()), RUN(tower, _images()))
    assert load_classifier(tmp_path, num_classes=5).num_classes == 5
    scratch = load_classifier(folders[kind], num_classes=3, pretrained=False)
    assert np.isfinite(RUN(scratch, _images())).all()
    abstract = nnx.to_flat_state(nnx.state(abstract_classifier(folders[kind], 3)))
    assert {path: leaf.get_value().shape for path, leaf in abstract} == {
        path: leaf.get_value().shape for path, leaf in nnx.to_flat_state(nnx.state(tower))
    }


@pytest.mark.parametrize("kind", ["open clip", "siglip"])
def test_the_digest_follows_the_weights_and_the_config(copied: Any, kind: str) -> None:
    folder = copied(kind)
    before = classifier_digest(folder)
    file = next(folder.glob("*model.safetensors"))
    tensors = load_file(file)
    save_file({name: np.asarray(array + 1) for name, array in tensors.items()}, file)
    after = classifier_digest(folder)
    config = folder / ("config.json" if kind == "siglip" else "open_clip_config.json")
    config.write_text(config.read_text() + " ")
    assert len({before, after, classifier_digest(folder)}) == 3


def test_class_names_choose_the_whole_model_beside_timms_tower(copied: Any, folders: dict[str, Path]) -> None:
    folder = copied("open clip")
    save_classifier(load_classifier(folder, num_classes=3), folder)
    assert json.loads((folder / "config.json").read_text())["architecture"].startswith("vit_base")
    assert load_classifier(folder).num_classes == 3
    expected = load_classifier(folders["open clip"], class_names=["cat"])
    np.testing.assert_array_equal(load_classifier(folder, class_names=["cat"]).head.kernel[...], expected.head.kernel[...])


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("open_clip_config.json", r"open_clip_config\.json is missing; an OpenCLIP folder holds open_clip_config\.json"),
        ("open_clip_model.safetensors", r"open_clip_model\.safetensors is missing \(open_clip_pytorch_model\.bin is a pickle"),
        ("vocab.json", r"holds no tokenizer; expected vocab\.json and merges\.txt, or tokenizer\.json"),
        ("merges.txt", r"holds no tokenizer; expected vocab\.json and merges\.txt, or tokenizer\.json"),
    ],
)
def test_a_missing_part_of_an_open_clip_folder_is_named(copied: Any, part: str, words: str) -> None:
    folder = copied("open clip")
    (folder / "open_clip_pytorch_model.bin").touch()
    (folder / part).unlink()
    with pytest.raises(UserError, match=words) as error:
        load_classifier(folder, class_names=["cat"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model_cfg", None, r"must hold model_cfg and preprocess_cfg"),
        ("model_cfg.vision_cfg", 3, r"model_cfg: vision_cfg is 3; expected a JSON object"),
        ("model_cfg.text_cfg", None, r"model_cfg: text_cfg is None; expected a JSON object"),
        ("model_cfg.embed_dim", "16", r"model_cfg: embed_dim is '16'; expected a positive whole number"),
        ("model_cfg.vision_cfg.layers", [1, 0], r"model_cfg\.vision_cfg: layers is \[1, 0\]"),
        ("model_cfg.vision_cfg.timm_model_name", "x", r"vision_cfg: timm_model_name = 'x' is not supported"),
        ("model_cfg.vision_cfg.wings", 2, r"vision_cfg: wings is not supported, only layers, width"),
        ("model_cfg.text_cfg.hf_model_name", "x", r"text_cfg: hf_model_name = 'x' is not supported"),
        ("model_cfg.text_cfg.heads", 5, r"num_attention_heads = 5 must divide hidden_size = 24"),
        ("preprocess_cfg.mean", [0.5], r"mean and std of preprocess_cfg must be 3 numbers each"),
    ],
)
def test_a_wrong_open_clip_config_is_told_in_one_sentence(copied: Any, path: str, value: Any, words: str) -> None:
    file = copied("open clip") / "open_clip_config.json"
    content = json.loads(file.read_text())
    *parents, key = path.split(".")
    place = content
    for name in parents:
        place = place[name]
    place[key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words) as error:
        load_classifier(file.parent, class_names=["cat"])
    assert "open_clip_config.json" in str(error.value) or "text_config" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        ("open clip", "visual.ln_pre.weight", None, r"1 tensors are missing \(visual\.ln_pre\.weight\)"),
        ("open clip", "visual.transformer.resblocks.1.attn.in_proj_bias", None, r"resblocks\.1\.attn\.in_proj_bias"),
        ("open clip", "transformer.resblocks.0.mlp.c_fc.bias", None, r"missing \(transformer\.resblocks\.0\.mlp\.c_fc\.bias"),
        ("open clip", "visual.proj", np.zeros((32, 5), np.float32), r"visual\.proj has shape"),
        ("open clip", "audio.weight", np.zeros(3, np.float32), r"no place in the model \(audio\.weight\)"),
        ("open clip", "logit_scale", None, r"the tensor logit_scale must hold one finite number"),
        ("open clip resnet", "visual.attnpool.c_proj.bias", None, r"visual\.attnpool\.c_proj\.bias"),
        ("open clip resnet", "visual.layer1.0.conv2.weight", np.zeros((8, 8, 5, 5), np.float32), r"has shape \[8, 8, 5, 5\]"),
        ("siglip", "vision_model.head.attention.in_proj_weight", np.zeros((95, 32), np.float32), r"attention\.in_proj_weight"),
        ("siglip", "text_model.head.weight", None, r"text_model\.head\.weight"),
        ("siglip", "logit_bias", np.float32([1, 2]), r"the tensor logit_bias must hold one finite number"),
    ],
)
def test_a_wrong_tensor_is_named_as_the_file_names_it(copied: Any, kind: str, name: str, value: Any, words: str) -> None:
    folder = copied(kind)
    file = next(folder.glob("*model.safetensors"))
    tensors = dict(load_file(file))
    tensors.pop(name, None)
    save_file(tensors | ({} if value is None else {name: value}), file)
    with pytest.raises(UserError, match=words) as error:
        load_classifier(folder, class_names=["a"])
    assert "\n" not in str(error.value)


def test_openais_weights_tell_a_lost_size_and_others_want_a_config(copied: Any) -> None:
    folder = copied("open clip")
    file = folder / "ViT.safetensors"
    (folder / "open_clip_config.json").unlink()
    (folder / "open_clip_model.safetensors").rename(file)
    tensors = dict(load_file(file))
    del tensors["ln_final.weight"]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"ViT\.safetensors: the tensor 'ln_final\.weight', which tells a size"):
        load_classifier(folder)
    save_file({"conv1.weight": np.zeros(3, np.float32)}, file)
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_classifier(folder)


# -- tokenizers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_sentencepiece, write_unigram])
def test_siglip_texts_lose_capitals_and_punctuation_and_are_padded_with_the_end(write: Any, tmp_path: Path) -> None:
    tokenizer = SigLIPTokenizer(write(tmp_path), 10, 64)
    ids = tokenizer(["A  photo, of: a CAT!", "dogs"])
    words = [[PIECES[number] for number in row] for row in ids]
    assert words[0] == ["▁a", "▁photo", "▁of", "▁a", "▁cat", *["</s>"] * 5]
    assert words[1] == ["▁dog", "s", *["</s>"] * 8]
    assert ids.dtype == np.int32
    with pytest.warns(UserWarning, match="the text tower takes 4 tokens, so a text was cut: 'a photo of a cat'"):
        cut = SigLIPTokenizer(tmp_path, 4, 64)(["a photo of a cat"])
    assert [PIECES[number] for number in cut[0]] == ["▁a", "▁photo", "▁of", "</s>"]
    assert tokenizer([]).shape == (0, 10)
    with pytest.raises(UserError, match="prompt 3 is not a string"):
        tokenizer([3])


def test_siglip_2_texts_keep_punctuation_and_are_padded_with_zeros(tmp_path: Path) -> None:
    tokenizer = SigLIPTokenizer(write_gemma(tmp_path), 8, 64)
    cat, comma, end = (tokenizer._backend.token_to_id(word) for word in ("cat", ",", "<eos>"))
    np.testing.assert_array_equal(tokenizer(["CAT,"]), [[cat, comma, end, 0, 0, 0, 0, 0]])
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": "left"}))
    np.testing.assert_array_equal(SigLIPTokenizer(tmp_path, 8, 64)(["cat,"]), [[0, 0, 0, 0, 0, cat, comma, end]])


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model"])
@pytest.mark.parametrize("content", [b"", b"\x0a\xff\xff", b"{}", b"version https://git-lfs.github.com/spec/v1\n"])
def test_an_unreadable_siglip_tokenizer_is_told_in_one_sentence(copied: Any, name: str, content: bytes) -> None:
    folder = copied("siglip")
    (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(
        UserError, match=rf"{re.escape(name)} holds a SigLIP tokenizer that cannot be read \(.+\); fetch"
    ) as error:
        load_classifier(folder, class_names=["cat"])
    assert "\n" not in str(error.value)


def test_a_siglip_tokenizer_that_is_missing_or_too_large_is_told(copied: Any, tmp_path: Path) -> None:
    folder = copied("siglip")
    with pytest.raises(UserError, match="holds 36 tokens, but the text tower knows 30"):
        SigLIPTokenizer(folder, 64, 30)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({"tokenizer_class": "SiglipTokenizer", "pad_token": {"content": "<none>"}}))
    with pytest.raises(UserError, match="holds no token <none>, the pad_token of SigLIP"):
        SigLIPTokenizer(folder, 64, 64)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"holds no SigLIP tokenizer; expected tokenizer\.json or spiece\.model"):
        load_classifier(folder, class_names=["cat"])
    assert load_classifier(folder, num_classes=2).num_classes == 2  # the image tower needs none


# -- DINOv2 --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("registers", [0, 2])
def test_a_dinov2_folder_starts_and_comes_back(registers: int, tmp_path: Path) -> None:
    folder = write_dinov2(tmp_path / "dinov2", registers)
    with pytest.raises(UserError, match="without a head; give num_classes"):
        load_classifier(folder)
    model = load_classifier(folder, num_classes=3)
    assert (model.preprocessing.size, model.preprocessing.mean, model.feature_width) == (32, tuple(MEAN), 32)
    assert (np.asarray(model.blocks[0].layer_scale1[...]) == 1).all()
    save_classifier(model, tmp_path / "saved")
    again = load_classifier(tmp_path / "saved")
    assert nnx.graphdef(again) == nnx.graphdef(model)
    np.testing.assert_array_equal(RUN(again, _images(40)), RUN(model, _images(40)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "qkv_bias": False}))
    with pytest.raises(UserError, match="qkv_bias = False is not supported"):
        load_classifier(folder, num_classes=3)
