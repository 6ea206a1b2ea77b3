"""LoRA files in every naming: merged with the numbers of PyTorch, or refused with the tensor's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bridgejax.diffusion import load_pipeline
from bridgejax.diffusion.find import find_generator
from bridgejax.diffusion.folder import read_folder
from bridgejax.errors import UserError
from tests import original_files as originals

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
# Layers of the tiny generator: [out, in] and, for convolutions, the kernel.
UNET = {
    f"{BLOCK}.attn1.to_q": (16, 16),
    f"{BLOCK}.attn2.to_k": (16, 32),
    f"{BLOCK}.attn1.to_out.0": (16, 16),
    f"{BLOCK}.ff.net.0.proj": (128, 16),
    "down_blocks.0.attentions.0.proj_in": (16, 16, 1, 1),
    "down_blocks.0.resnets.0.conv1": (16, 16, 3, 3),
}
TEXT = {
    "encoder.layers.0.self_attn.q_proj": (32, 32),
    "encoder.layers.0.self_attn.out_proj": (32, 32),
    "encoder.layers.1.mlp.fc1": (64, 32),
}


def halves(shape: tuple[int, ...], rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns down and up of a layer."""
    rng = np.random.default_rng(seed)
    down = rng.normal(size=(rank, *shape[1:])).astype(np.float32) * 0.1
    up = rng.normal(size=(shape[0], rank, *(1,) * (len(shape) - 2))).astype(np.float32) * 0.1
    return down, up


def change(shape: tuple[int, ...], rank: int, seed: int) -> np.ndarray:
    """Returns up · down as the weight's shape, by the definition of a convolution of two kernels."""
    down, up = halves(shape, rank, seed)
    if len(shape) == 2:
        return up @ down
    return np.einsum("or,rihw->oihw", up[:, :, 0, 0], down)


def layers(rank: int = 3) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    every = [("unet", name, shape) for name, shape in UNET.items()] + [("text_encoder", n, s) for n, s in TEXT.items()]
    return {(part, name): halves(shape, rank, seed) for seed, (part, name, shape) in enumerate(every)}


def peft(tensors: dict) -> None:
    for (part, name), (down, up) in layers().items():
        wrapped = name if part == "unet" else f"text_model.{name}"
        tensors |= {f"{part}.{wrapped}.lora_A.weight": down, f"{part}.{wrapped}.lora_B.weight": up}


def plain(tensors: dict) -> None:
    for (part, name), (down, up) in layers().items():
        word = "lora" if part == "unet" else "lora_linear_layer"
        tensors |= {f"{part}.{name}.{word}.down.weight": down, f"{part}.{name}.{word}.up.weight": up}


def processors(tensors: dict) -> None:
    """The oldest naming; layers that are no attention have the plain one."""
    for (part, name), (down, up) in layers().items():
        stem, _, last = name.rpartition(".")
        start = f"{part}.{name}.lora"
        if name.endswith("to_out.0"):
            start = f"{part}.{name.removesuffix('.to_out.0')}.processor.to_out_lora"
        elif last in ("to_q", "to_k"):
            start = f"{part}.{stem}.processor.{last}_lora"
        elif last in ("q_proj", "out_proj"):
            start = f"{part}.text_model.{stem}.to_{last.removesuffix('_proj')}_lora"
        elif last == "fc1":
            start = f"{part}.{name}.lora_linear_layer"
        tensors |= {f"{start}.down.weight": down, f"{start}.up.weight": up}


def kohya(tensors: dict, te: str = "te") -> None:
    for (part, name), (down, up) in layers().items():
        start = f"lora_unet_{name}" if part == "unet" else f"lora_{te}_text_model_{name}"
        start = start.replace(".", "_")
        tensors |= {f"{start}.lora_down.weight": down, f"{start}.lora_up.weight": up, f"{start}.alpha": np.float32(1.5)}


NAMINGS = {"peft": (peft, 1.0), "plain": (plain, 1.0), "processors": (processors, 1.0), "kohya": (kohya, 0.5)}


def write(file: Path, fill: Any, **metadata: str) -> Path:
    tensors: dict[str, np.ndarray] = {}
    fill(tensors)
    save_file(
        {name: np.ascontiguousarray(array) for name, array in tensors.items()}, file, metadata={"format": "pt", **metadata}
    )
    return file


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_changes_the_same_weights(tiny_folder: Path, tmp_path: Path, naming: str) -> None:
    fill, factor = NAMINGS[naming]
    file = write(tmp_path / "lora.safetensors", fill)
    before, after = read_folder(tiny_folder), find_generator(tiny_folder, loras=[(file, 0.8)])
    every = {("unet", name): shape for name, shape in UNET.items()} | {("text_encoder", n): s for n, s in TEXT.items()}
    expected = {key: 0.8 * factor * change(shape, 3, seed) for seed, (key, shape) in enumerate(every.items())}
    for part in ("unet", "text_encoder"):
        old, new = before.tensors(part), after.tensors(part)
        assert set(old) == set(new)
        for name, array in old.items():
            delta = expected.get((part, name.removesuffix(".weight")), 0) if name.endswith(".weight") else 0
            np.testing.assert_allclose(new[name], array + delta, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("rslora", "factor"), [(False, 4 / 3), (True, 4 / 3**0.5)])
def test_the_alphas_of_peft_metadata_count(tiny_folder: Path, tmp_path: Path, rslora: bool, factor: float) -> None:
    settings = {"unet.lora_alpha": 4, "unet.r": 3, "unet.use_rslora": rslora, "unet.alpha_pattern": {"attn2.to_k": 6}}
    file = write(tmp_path / "lora.safetensors", peft, lora_adapter_metadata=json.dumps(settings))
    before, after = read_folder(tiny_folder).tensors("unet"), find_generator(tiny_folder, loras={file: 1}).tensors("unet")
    for seed, (name, scale) in enumerate([(f"{BLOCK}.attn1.to_q", factor), (f"{BLOCK}.attn2.to_k", factor * 6 / 4)]):
        delta = after[f"{name}.weight"] - before[f"{name}.weight"]
        np.testing.assert_allclose(delta, scale * change(UNET[name], 3, seed), rtol=1e-4, atol=1e-6)


def test_images_follow_the_scale_and_so_does_the_digest(tiny_folder: Path, tmp_path: Path, pipe: Any) -> None:
    file = write(tmp_path / "lora.safetensors", kohya)

    def sample(model: Any) -> np.ndarray:
        return np.asarray(model(["a cat"], seeds=[1], steps=2))

    none, some = load_pipeline(tiny_folder, loras=[(file, 0.0)]), load_pipeline(tiny_folder, loras={str(file): 1.0})
    np.testing.assert_array_equal(sample(none), sample(pipe))
    assert np.abs(sample(some) - sample(pipe)).max() > 1e-3
    twice = load_pipeline(tiny_folder, loras=[(file, 0.25), (file, 0.75)])
    np.testing.assert_allclose(sample(twice), sample(some), atol=1e-4)
    digests = {model.digest for model in (pipe, none, some, twice)}
    assert len(digests) == 4
    copy = write(tmp_path / "same.safetensors", kohya)
    assert load_pipeline(tiny_folder, loras=[(copy, 1.0)]).digest == some.digest


def test_sdxl_files_of_kohya_name_the_original_blocks(tmp_path: Path) -> None:
    file = originals.write_single_file(tmp_path, "xl")
    down, up = halves((64, 64), 2, 0)
    conv_down, conv_up = halves((64, 32, 3, 3), 2, 1)
    text_down, text_up = halves((48, 64), 2, 2)

    def fill(tensors: dict) -> None:
        for start, (a, b) in {
            "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q": (down, up),
            "lora_unet_input_blocks_4_0_in_layers_2": (conv_down, conv_up),
            "lora_te2_text_projection": (text_down, text_up),
        }.items():
            tensors |= {f"{start}.lora_down.weight": a, f"{start}.lora_up.weight": b}

    lora = write(tmp_path / "lora.safetensors", fill)
    before, after = find_generator(file), find_generator(file, loras=[(lora, 2.0)])
    for part, name, delta in (
        ("unet", "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q.weight", 2 * up @ down),
        ("unet", "down_blocks.1.resnets.0.conv1.weight", 2 * change((64, 32, 3, 3), 2, 1)),
        ("text_encoder_2", "text_projection.weight", 2 * text_up @ text_down),
    ):
        np.testing.assert_allclose(after.tensors(part)[name] - before.tensors(part)[name], delta, rtol=1e-4, atol=1e-5)


def _rename(tensors: dict) -> None:
    plain(tensors)
    tensors["unet.down_blocks.7.attentions.0.proj_in.lora.down.weight"] = np.zeros((1, 16), np.float32)


def _wide(tensors: dict) -> None:
    tensors[f"unet.{BLOCK}.attn1.to_q.lora_A.weight"] = np.zeros((2, 320), np.float32)
    tensors[f"unet.{BLOCK}.attn1.to_q.lora_B.weight"] = np.zeros((320, 2), np.float32)


def _half(tensors: dict) -> None:
    peft(tensors)
    del tensors[f"unet.{BLOCK}.attn1.to_q.lora_B.weight"]


def _loha(tensors: dict) -> None:
    tensors[f"lora_unet_{BLOCK.replace('.', '_')}_attn1_to_q.hada_w1_a"] = np.zeros((2, 2), np.float32)


def _dora(tensors: dict) -> None:
    peft(tensors)
    tensors[f"unet.{BLOCK}.attn1.to_q.lora_magnitude_vector"] = np.ones(17, np.float32)


def _nan(tensors: dict) -> None:
    peft(tensors)
    tensors[f"unet.{BLOCK}.attn1.to_q.lora_A.weight"] = np.full((3, 16), np.nan, np.float32)


def _integers(tensors: dict) -> None:
    peft(tensors)
    tensors[f"unet.{BLOCK}.attn1.to_q.lora_A.weight"] = np.zeros((3, 16), np.int8)


def _model(tensors: dict) -> None:
    tensors["conv_in.weight"] = np.zeros((16, 4, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("fill", "sentence"),
    [
        (_rename, r"down_blocks\.7\.attentions\.0\.proj_in\.lora\.down\.weight has no place.*for another base"),
        (_wide, r"to_q\.lora_A\.weight has shape \[2, 320\].*\[rank, 16\].*for another base"),
        (_half, r"to_q\.lora_A\.weight lacks its other half"),
        (_loha, r"hada_w1_a lacks its other half"),
        (_dora, r"lora_magnitude_vector has shape \[17\], but its layer's weight in this generator \[16, 16\]"),
        (_nan, r"to_q\.lora_A\.weight holds NaN"),
        (_integers, r"to_q\.lora_A\.weight has dtype int8"),
        (_model, r"conv_in\.weight has no place"),
        (lambda tensors: None, "holds no tensors"),
    ],
)
def test_what_does_not_fit_is_named(tiny_folder: Path, tmp_path: Path, fill: Any, sentence: str) -> None:
    file = write(tmp_path / "lora.safetensors", fill)
    with pytest.raises(UserError, match=sentence) as caught:
        load_pipeline(tiny_folder, loras=[(file, 1.0)])
    assert "lora.safetensors" in str(caught.value)


def test_bad_calls_and_files_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lora.pt").write_bytes(b"\x80\x02}q\x00.")
    whole = write(tmp_path / "whole.safetensors", peft).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    for loras, sentence in (
        ([(tmp_path / "lora.pt", 1.0)], "is a pickle"),
        ([(tmp_path / "cut.safetensors", 1.0)], "is cut short"),
        ([(tmp_path / "absent.safetensors", 1.0)], "is missing"),
        ([(tmp_path, 1.0)], "holds no LoRA"),
        ([(tmp_path / "whole.safetensors", float("nan"))], "must be a finite number"),
        ({tmp_path / "whole.safetensors": "1"}, "must be a finite number"),
        ([3], "give .path, scale. pairs"),
    ):
        with pytest.raises(UserError, match=sentence):
            load_pipeline(tiny_folder, loras=loras)


@pytest.mark.parity
@pytest.mark.parametrize("naming", NAMINGS)
def test_the_same_weights_as_fused_by_diffusers(tiny_folder: Path, tmp_path: Path, naming: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    from diffusers import StableDiffusionPipeline

    file = write(tmp_path / "pytorch_lora_weights.safetensors", NAMINGS[naming][0])
    theirs = StableDiffusionPipeline.from_pretrained(tiny_folder)
    theirs.load_lora_weights(tmp_path)
    theirs.fuse_lora(lora_scale=0.7)
    theirs.unload_lora_weights()
    ours = find_generator(tiny_folder, loras=[(file, 0.7)])
    before = read_folder(tiny_folder)
    for part in ("unet", "text_encoder"):
        mine = ours.tensors(part)
        state = {n.removeprefix("text_model."): a.detach().numpy() for n, a in getattr(theirs, part).state_dict().items()}
        changed = 0
        for name, array in mine.items():
            np.testing.assert_allclose(array, state[name], rtol=1e-5, atol=1e-6, err_msg=name)
            changed += not np.array_equal(array, before.tensors(part)[name])
        assert changed == (len(UNET) if part == "unet" else len(TEXT))
