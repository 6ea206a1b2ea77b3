"""Published weights load whole or not at all, with one sentence that names what is wrong."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.clip_text import plain_text_names
from bridgejax.models.layers import Conv2d, GroupNorm, linear
from bridgejax.models.safetensors_files import read_tensors, save_tensors
from bridgejax.models.vae import modern_vae_names
from bridgejax.models.weights import assign, export, torch_rules

RULES = torch_rules(conv=r"conv\d?")


class Small(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv = Conv2d(3, 8, 3, rngs=rngs)
        self.norm = GroupNorm(2, 8)
        self.layers = nnx.List([linear(8, 4, rngs=rngs), linear(4, 2, use_bias=False, rngs=rngs)])


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "conv.weight": (8, 3, 3, 3),
        "conv.bias": (8,),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "layers.0.weight": (4, 8),
        "layers.0.bias": (4,),
        "layers.1.weight": (2, 4),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def abstract() -> Small:
    return nnx.eval_shape(lambda: Small(nnx.Rngs(0)))


def test_layouts_and_round_trip(tmp_path: Path) -> None:
    source = tensors()
    model = assign(abstract(), source, RULES, "here")
    np.testing.assert_array_equal(model.conv.kernel[...][1, 2, 0], source["conv.weight"][:, 0, 1, 2])
    np.testing.assert_array_equal(model.layers[0].kernel[...], source["layers.0.weight"].T)
    save_tensors(tmp_path / "model.safetensors", export(model, RULES))
    again = read_tensors(tmp_path)
    assert set(again) == set(source)
    for name, array in source.items():
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_half_precision_files(tmp_path: Path, dtype: type) -> None:
    save_tensors(tmp_path / "model.safetensors", {name: array.astype(dtype) for name, array in tensors().items()})
    read = read_tensors(tmp_path / "model.safetensors")
    assert read["conv.weight"].dtype == dtype
    model = assign(abstract(), read, RULES, "here")
    assert model.conv.kernel[...].dtype == np.float32
    np.testing.assert_allclose(model.conv.bias[...], tensors()["conv.bias"], rtol=1e-2)


def test_sharded_files(tmp_path: Path) -> None:
    source = tensors()
    halves = [dict(list(source.items())[:3]), dict(list(source.items())[3:])]
    index = {}
    for number, half in enumerate(halves, 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_tensors(tmp_path / name, half)
        index |= dict.fromkeys(half, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert set(read_tensors(tmp_path)) == set(source)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors is missing"):
        read_tensors(tmp_path)


def _missing(source: dict[str, np.ndarray]) -> None:
    del source["norm.bias"]


def _extra(source: dict[str, np.ndarray]) -> None:
    source["lora.down"] = np.zeros(3, np.float32)


def _shape(source: dict[str, np.ndarray]) -> None:
    source["layers.0.weight"] = source["layers.0.weight"][:3]


def _nan(source: dict[str, np.ndarray]) -> None:
    source["conv.weight"][1, 2, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_missing, r"1 tensors are missing \(norm\.bias\)"),
        (_extra, r"1 tensors have no place in the model \(lora\.down\)"),
        (_shape, r"layers\.0\.weight has shape \[3, 8\], but the config asks for \[4, 8\]"),
        (_nan, r"conv\.weight holds NaN"),
    ],
)
def test_wrong_tensors_are_named(spoil, sentence: str) -> None:
    source = tensors()
    spoil(source)
    with pytest.raises(UserError, match=sentence) as caught:
        assign(abstract(), source, RULES, "somewhere/unet")
    assert "somewhere/unet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_constants_of_old_files_are_passed_over() -> None:
    source = {**tensors(), "embeddings.position_ids": np.arange(77)}
    assign(abstract(), source, RULES, "here")


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful()))
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle"):
            read_tensors(path)
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_tensors(file, tensors())
    whole = file.read_bytes()
    for content in (whole[:-1], whole[:4], b"", b"<html>not found</html>", whole + b"x"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.safetensors is cut short or not a safetensors file"):
            read_tensors(tmp_path)
    with pytest.raises(UserError, match="holds no safetensors"):
        read_tensors(tmp_path / "nowhere")


def test_old_names() -> None:
    old = {
        "encoder.mid_block.attentions.0.query.weight": np.zeros((4, 4)),
        "encoder.mid_block.attentions.0.proj_attn.bias": np.zeros(4),
        "decoder.mid_block.attentions.0.value.weight": np.zeros((4, 4, 1, 1)),
    }
    renamed = modern_vae_names(old)
    assert set(renamed) == {
        "encoder.mid_block.attentions.0.to_q.weight",
        "encoder.mid_block.attentions.0.to_out.0.bias",
        "decoder.mid_block.attentions.0.to_v.weight",
    }
    assert renamed["decoder.mid_block.attentions.0.to_v.weight"].shape == (4, 4)
    assert set(plain_text_names({"text_model.final_layer_norm.bias": np.zeros(1), "text_projection.weight": np.zeros(1)})) == {
        "final_layer_norm.bias",
        "text_projection.weight",
    }
