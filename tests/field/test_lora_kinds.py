"""Adapter files of every kind and every program: used with the numbers of their definition, or refused with the true reason.

The kind: a file says by its tensors' names which change of which layer it holds. The kinds of changes are PEFT's (LoRA, LoHa,
LoKr, DoRA, OFT, BOFT, IA3, VeRA) and of LyCORIS (LoCon with and without a core, LoHa, LoKr, DoRA over these by outputs or
inputs, full differences, norms, GLoRA, IA3, OFT); spellings are those of diffusers, PEFT, kohya, LyCORIS, ComfyUI and
transformers 5, with PEFT's adapter names. A1111 and OneTrainer bundle learned words with a LoRA.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bridgejax.diffusion.decisions import decisions
from bridgejax.diffusion.find import find_generator
from bridgejax.diffusion.spec import content_digest
from bridgejax.errors import UserError
from tests import original_files as originals

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"  # [16, 16]
WIDE = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"  # [128, 16]
CONVOLUTION = "down_blocks.0.resnets.0.conv1"  # [16, 16, 3, 3]
NORM = "down_blocks.0.resnets.0.norm1"  # [16]
ORIGINAL = {  # of the layout that SDXL's kohya files and ComfyUI's use
    ATTENTION: "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
    WIDE: "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj",
    CONVOLUTION: "input_blocks.1.0.in_layers.2",
    NORM: "input_blocks.1.0.in_layers.0",
}
SCALE, ALPHA = 0.7, 2.0


def kohya(layer: str) -> str:
    return "lora_unet_" + layer.replace(".", "_")


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng([seed, *shape]).normal(size=shape) * 0.1).astype(np.float32)


def changed(folder: Path, file: Path, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Writes a file and returns the UNet's weights that it changes, as differences."""
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, file)
    before, after = find_generator(folder).tensors("unet"), find_generator(folder, loras=[(file, SCALE)]).tensors("unet")
    differences = {name: after[name] - before[name] for name in before}
    return {name: array for name, array in differences.items() if np.abs(array).max() > 1e-7}


def loha(shape: tuple[int, ...], core: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """LyCORIS' LoHa: the elementwise product of two low-rank kernels."""
    out, into, *kernel = shape
    if core:
        t = {f"hada_t{i}": numbers(3, 3, *kernel, seed=i) for i in (1, 2)}
        w = {f"hada_w{i}_{s}": numbers(3, out if s == "a" else into, seed=10 * i + (s == "b")) for i in (1, 2) for s in "ab"}
        parts = [np.einsum("ijkl,jr,ip->prkl", t[f"hada_t{i}"], w[f"hada_w{i}_b"], w[f"hada_w{i}_a"]) for i in (1, 2)]
        return t | w, parts[0] * parts[1]
    w = {}
    for i in (1, 2):
        w |= {f"hada_w{i}_a": numbers(out, 3, seed=i), f"hada_w{i}_b": numbers(3, int(np.prod([into, *kernel])), seed=i + 5)}
    product = (w["hada_w1_a"] @ w["hada_w1_b"]) * (w["hada_w2_a"] @ w["hada_w2_b"])
    return w, product.reshape(shape)


def lokr(shape: tuple[int, ...], first: bool, second: bool, core: bool = False) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """LyCORIS' LoKr: the Kronecker product of a 4×4 matrix and the rest, each low-rank if asked for."""
    out, into, *kernel = shape
    w: dict[str, np.ndarray] = {}
    if first:
        w |= {"lokr_w1_a": numbers(4, 3), "lokr_w1_b": numbers(3, 4)}
        left = w["lokr_w1_a"] @ w["lokr_w1_b"]
    else:
        left = w["lokr_w1"] = numbers(4, 4)
    size = (out // 4, into // 4, *kernel)
    if core:
        w |= {"lokr_t2": numbers(3, 3, *kernel), "lokr_w2_a": numbers(3, size[0]), "lokr_w2_b": numbers(3, size[1], seed=1)}
        right = np.einsum("ijkl,jr,ip->prkl", w["lokr_t2"], w["lokr_w2_b"], w["lokr_w2_a"])
    elif second:
        w |= {"lokr_w2_a": numbers(size[0], 3, seed=2), "lokr_w2_b": numbers(3, int(np.prod(size[1:])), seed=3)}
        right = (w["lokr_w2_a"] @ w["lokr_w2_b"]).reshape(size)
    else:
        right = w["lokr_w2"] = numbers(*size, seed=4)
    return w, np.kron(left.reshape(4, 4, *(1,) * len(kernel)), right)


def locon_core(shape: tuple[int, ...]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    out, into, *kernel = shape
    down, mid, up = numbers(3, into, 1, 1), numbers(3, 3, *kernel), numbers(out, 3, 1, 1)
    w = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}
    return w, np.einsum("or,rshw,si->oihw", up[:, :, 0, 0], mid, down[:, :, 0, 0])


LINEAR, KERNEL = (128, 16), (16, 16, 3, 3)
RATIO = ALPHA / 3
KINDS: dict[str, tuple[str, Callable[[], tuple[dict[str, np.ndarray], np.ndarray]], float]] = {
    "LoHa": (WIDE, lambda: loha(LINEAR, False), RATIO),
    "LoHa of a convolution": (CONVOLUTION, lambda: loha(KERNEL, False), RATIO),
    "LoHa with cores": (CONVOLUTION, lambda: loha(KERNEL, True), RATIO),
    "LoKr of two whole matrices": (WIDE, lambda: lokr(LINEAR, False, False), 1.0),
    "LoKr, second low-rank": (WIDE, lambda: lokr(LINEAR, False, True), RATIO),
    "LoKr, both low-rank": (WIDE, lambda: lokr(LINEAR, True, True), RATIO),
    "LoKr of a convolution": (CONVOLUTION, lambda: lokr(KERNEL, False, True), RATIO),
    "LoKr with a core": (CONVOLUTION, lambda: lokr(KERNEL, False, False, core=True), RATIO),
    "LoCon with a core": (CONVOLUTION, lambda: locon_core(KERNEL), RATIO),
}


@pytest.mark.parametrize("spelling", ["kohya", "kohya on the original layout", "diffusion_model"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_change_is_that_of_its_definition(tiny_generator: Path, tmp_path: Path, kind: str, spelling: str) -> None:
    layer, make, ratio = KINDS[kind]
    tensors, change = make()
    start = {"kohya": kohya(layer), "diffusion_model": f"diffusion_model.{ORIGINAL[layer]}"}.get(
        spelling, kohya(ORIGINAL[layer])
    )
    file = {f"{start}.{name}": array for name, array in tensors.items()} | {f"{start}.alpha": np.array(ALPHA, np.float32)}
    found = changed(tiny_generator, tmp_path / "x.safetensors", file)
    assert set(found) == {f"{layer}.weight"}
    np.testing.assert_allclose(found[f"{layer}.weight"], SCALE * ratio * change, rtol=1e-3, atol=1e-6)


def test_norms_biases_and_whole_differences_are_added(tiny_generator: Path, tmp_path: Path) -> None:
    tensors = {
        f"{kohya(NORM)}.w_norm": numbers(16),
        f"{kohya(NORM)}.b_norm": numbers(16, seed=1),
        f"{kohya(WIDE)}.diff": numbers(128, 16),
        f"{kohya(WIDE)}.diff_b": numbers(128),
        f"{kohya('down_blocks.0.attentions.0.proj_in')}.diff": numbers(16, 16),
    }
    found = changed(tiny_generator, tmp_path / "x.safetensors", tensors)
    expected = [f"{NORM}.weight", f"{NORM}.bias", f"{WIDE}.weight", f"{WIDE}.bias", "down_blocks.0.attentions.0.proj_in.weight"]
    assert set(found) == set(expected)
    for name, array in zip(expected, tensors.values(), strict=True):
        np.testing.assert_allclose(found[name].reshape(array.shape), SCALE * array, rtol=1e-3, atol=1e-6)


TEXT = "encoder.layers.0.self_attn.q_proj"
CLIP_L = "text_encoders.clip_l.transformer.text_model"
SPELLINGS = {
    "unet.{u}.lora_A.weight": "unet.{u}.lora_B.weight",
    "unet.{u}.lora_A.default.weight": "unet.{u}.lora_B.default.weight",
    "unet.{u}.lora_A.my_style.weight": "unet.{u}.lora_B.my_style.weight",
    "diffusion_model.{u}.lora_down.weight": "diffusion_model.{u}.lora_up.weight",
    "diffusion_model.{o}.lora_A.weight": "diffusion_model.{o}.lora_B.weight",
    "text_encoder.text_model.{t}.lora_A.weight": "text_encoder.text_model.{t}.lora_B.weight",
    "text_encoder.{t}.lora_A.weight": "text_encoder.{t}.lora_B.weight",
    f"{CLIP_L}.{{t}}.lora_down.weight": f"{CLIP_L}.{{t}}.lora_up.weight",
    "lora_te_text_model_{T}.lora_down.weight": "lora_te_text_model_{T}.lora_up.weight",
    "lora_te1_text_model_{T}.lora_down.weight": "lora_te1_text_model_{T}.lora_up.weight",
    "lora_te_{T}.lora_down.weight": "lora_te_{T}.lora_up.weight",
    "lycoris_{U}.lora_down.weight": "lycoris_{U}.lora_up.weight",
}


@pytest.mark.parametrize("down", SPELLINGS)
def test_every_spelling_finds_its_layer(tiny_generator: Path, tmp_path: Path, down: str) -> None:
    words = {"u": ATTENTION, "o": ORIGINAL[ATTENTION], "t": TEXT, "T": TEXT.replace(".", "_"), "U": ATTENTION.replace(".", "_")}
    part, layer, width = ("text_encoder", TEXT, 32) if "{t}" in down.lower() else ("unet", ATTENTION, 16)
    a, b = numbers(2, width), numbers(width, 2)
    save_file({down.format(**words): a, SPELLINGS[down].format(**words): b}, tmp_path / "x.safetensors")
    before = find_generator(tiny_generator).tensors(part)[f"{layer}.weight"]
    after = find_generator(tiny_generator, loras=[tmp_path / "x.safetensors"]).tensors(part)[f"{layer}.weight"]
    np.testing.assert_allclose(after - before, b @ a, rtol=1e-3, atol=1e-6)


START = kohya(ATTENTION)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a bundled word of another width": (
        {"bundle_emb.<neon>.string_to_param.*": numbers(2, 768)},
        r"tensor bundle_emb\.<neon>\.string_to_param\.\* has shape \[2, 768\].*32 numbers.*another base",
    ),
    "a bundled word of SDXL": (
        {"bundle_emb.<neon>.clip_l": numbers(2, 32), "bundle_emb.<neon>.clip_g": numbers(2, 32)},
        r"clip_l and clip_g \(SDXL\) at bundle_emb\.<neon>\.…, but the generator has one text encoder",
    ),
    "a bundled word of three tensors": (
        {f"bundle_emb.<neon>.{name}": numbers(2, 32) for name in "abc"},
        r"3 tensors \(bundle_emb\.<neon>\.a, .*not a textual-inversion embedding",
    ),
    "a bundled word that is in the vocabulary": (
        {"bundle_emb.a.emb_params": numbers(2, 32)},
        r"x\.safetensors: 'a' cannot be added.*in the vocabulary; rename its tensors bundle_emb\.a\.…",
    ),
    "GLoRA": (
        {f"{START}.{name}.weight": numbers(16, 2) for name in ("a1", "a2", "b1", "b2")},
        r"is a GLoRA \(tensor .*\.a1\.weight",
    ),
    "IA3 of LyCORIS": (
        {f"{START}.weight": numbers(16, 1), f"{START}.on_input": np.array(True)},
        r"is an IA3 \(tensor .*\.on_input",
    ),
    "IA3 of PEFT": ({f"base_model.model.{ATTENTION}.ia3_l": numbers(16, 1)}, "is an IA3"),
    "lengths alone": ({f"{START}.dora_scale": numbers(16, 1)}, r"dora_scale is a DoRA's lengths without weights"),
    "PEFT's lengths alone": (
        {f"unet.{ATTENTION}.lora_magnitude_vector": numbers(16)},
        r"lora_magnitude_vector is a DoRA's lengths without weights",
    ),
    "lengths of another base": (
        {f"{kohya(WIDE)}.dora_scale": numbers(64, 1)},
        r"dora_scale has shape \[64, 1\], but its layer's weight in this generator \[128, 16\]",
    ),
    "lengths by input under PEFT's name": (
        {f"{kohya(WIDE)}.lora_magnitude_vector": numbers(1, 16)},
        r"lora_magnitude_vector has shape \[1, 16\], but its layer's weight",
    ),
    "OFT of LyCORIS": ({f"{START}.oft_blocks": numbers(4, 4, 4)}, r"is an OFT \(tensor .*oft_blocks"),
    "OFT of kohya": ({f"{START}.oft_diag": numbers(4, 4, 4)}, r"is an OFT \(tensor .*oft_diag"),
    "BOFT of PEFT": ({f"base_model.model.{ATTENTION}.boft_R.default": numbers(4, 4)}, "is an OFT"),
    "VeRA": ({f"base_model.model.{ATTENTION}.vera_lambda_b": numbers(16)}, "is an adapter that is no LoRA"),
    "a bare PEFT adapter without its config": (
        {f"base_model.model.{ATTENTION}.lora_A.weight": numbers(2, 16)},
        r"adapter_config\.json is missing; PEFT saves it beside the adapter",
    ),
    "biases": ({f"unet.{ATTENTION}.lora_B.bias": numbers(16)}, "with biases"),
    "a generator": ({"model.diffusion_model.time_embed.0.weight": numbers(4, 4)}, "none of those that LoRA files have"),
    "a norm elsewhere": ({"lora_unet_down_blocks_9_norm.w_norm": numbers(16)}, r"w_norm has no place in this generator"),
    "a norm of another width": ({f"{kohya(NORM)}.w_norm": numbers(320)}, r"w_norm \[320\] make no change of shape \[16\]"),
    "LoHa without a half": ({f"{START}.hada_w1_a": numbers(16, 2)}, r"hada_w1_a lacks its other half \(hada_w1_b\)"),
    "LoKr without a half": ({f"{START}.lokr_w1": numbers(4, 4)}, "or not complete"),
    "LoKr of another base": (
        {f"{START}.lokr_w1": numbers(8, 8), f"{START}.lokr_w2": numbers(40, 40)},
        r"lokr_w1 \[8, 8\], .*lokr_w2 \[40, 40\] make no change of shape \[16, 16\]",
    ),
    "an alpha alone": ({f"{START}.alpha": np.array(1, np.float32)}, "an alpha without weights"),
    "an alpha that is none": ({f"{START}.alpha": np.array(np.nan, np.float32)}, "alpha holds NaN"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_read_is_refused_by_its_own_name(tiny_generator: Path, tmp_path: Path, kind: str) -> None:
    tensors, sentence = REFUSED[kind]
    halves = {f"{kohya(WIDE)}.lora_down.weight": numbers(2, 16), f"{kohya(WIDE)}.lora_up.weight": numbers(128, 2)}
    save_file({**tensors, **halves}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=sentence):
        find_generator(tiny_generator, loras=[tmp_path / "x.safetensors"])


def dora(weight: np.ndarray, change: np.ndarray, lengths: np.ndarray, axis: int) -> np.ndarray:
    """A weight whose vectors, one for each index of `axis`, have lengths of their own."""
    total = np.moveaxis((weight + change).astype(np.float64), axis, 0)
    vectors = total.reshape(len(total), -1)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * lengths.reshape(-1, 1)
    return np.moveaxis(vectors.reshape(total.shape), 0, axis)


@pytest.mark.parametrize("axis", [0, 1], ids=["outputs", "inputs"])
@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr, both low-rank", "LoCon with a core", "LoHa of a convolution"])
def test_a_dora_gives_its_vectors_their_lengths(tiny_generator: Path, tmp_path: Path, kind: str, axis: int) -> None:
    """LyCORIS' `dora_scale` over each kind of change, by outputs or, of its older versions, by inputs."""
    if kind == "LoRA":
        layer, ratio, tensors = WIDE, RATIO, {"lora_down.weight": numbers(3, 16), "lora_up.weight": numbers(128, 3)}
        change = tensors["lora_up.weight"] @ tensors["lora_down.weight"]
    else:
        layer, make, ratio = KINDS[kind]
        tensors, change = make()
    lengths = 1 + numbers(change.shape[axis])
    spread = [1] * change.ndim
    spread[axis] = -1
    tensors |= {"dora_scale": lengths.reshape(spread), "alpha": np.array(ALPHA, np.float32)}
    weight = find_generator(tiny_generator).tensors("unet")[f"{layer}.weight"]
    found = changed(tiny_generator, tmp_path / "x.safetensors", {f"{kohya(layer)}.{name}": a for name, a in tensors.items()})
    expected = dora(weight, SCALE * ratio * change, lengths, axis) - weight
    np.testing.assert_allclose(found[f"{layer}.weight"], expected, rtol=1e-3, atol=1e-5)


def test_two_doras_add_their_differences(tiny_generator: Path, tmp_path: Path) -> None:
    """Each DoRA is taken of the generator's own weights, as PEFT runs them, so that their order is of no account."""
    differences = []
    for number in (1, 2):
        tensors = {"lora_down.weight": numbers(3, 16, seed=number), "lora_up.weight": numbers(128, 3, seed=number)}
        tensors["dora_scale"] = 1 + numbers(128, 1, seed=number)
        file = tmp_path / f"{number}.safetensors"
        differences.append(changed(tiny_generator, file, {f"{kohya(WIDE)}.{name}": array for name, array in tensors.items()}))
    loras = [(tmp_path / f"{number}.safetensors", SCALE) for number in (2, 1)]
    name = f"{WIDE}.weight"
    both = (
        find_generator(tiny_generator, loras=loras).tensors("unet")[name] - find_generator(tiny_generator).tensors("unet")[name]
    )
    np.testing.assert_allclose(both, differences[0][name] + differences[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "sentence"), [(True, "asks for DoRA .use_dora., but"), (False, "use_dora false, but it holds")]
)
def test_metadata_and_tensors_must_both_say_dora(tiny_generator: Path, tmp_path: Path, asked: bool, sentence: str) -> None:
    tensors = {f"unet.{ATTENTION}.lora_A.weight": numbers(2, 16), f"unet.{ATTENTION}.lora_B.weight": numbers(16, 2)}
    metadata = {"lora_adapter_metadata": json.dumps({"unet.use_dora": asked, "unet.lora_alpha": 2})}
    if not asked:
        tensors[f"unet.{ATTENTION}.lora_magnitude_vector"] = numbers(16)
    save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(UserError, match=sentence):
        find_generator(tiny_generator, loras=[tmp_path / "x.safetensors"])


@pytest.mark.parametrize("form", ["string_to_param.*", "emb_params", "<neon>"])
def test_bundled_words_come_with_a_lora(tiny_generator: Path, tmp_path: Path, form: str) -> None:
    """A word is the same whether a LoRA bundles it, under any of its forms, or it lies in a file of its own."""
    halves = {f"{kohya(WIDE)}.lora_down.weight": numbers(2, 16), f"{kohya(WIDE)}.lora_up.weight": numbers(128, 2)}
    vectors = numbers(2, 32)
    save_file({f"bundle_emb.<neon>.{form}": vectors, **halves}, tmp_path / "both.safetensors")
    save_file(halves, tmp_path / "lora.safetensors")
    save_file({"<neon>": vectors}, tmp_path / "word.safetensors")
    bundled = find_generator(tiny_generator, loras=[tmp_path / "both.safetensors"])
    apart = find_generator(
        tiny_generator, loras=[tmp_path / "lora.safetensors"], embeddings={"<neon>": tmp_path / "word.safetensors"}
    )
    assert bundled.tokenizers == apart.tokenizers
    np.testing.assert_array_equal(bundled.tables["text_encoder"], apart.tables["text_encoder"])
    np.testing.assert_array_equal(bundled.tensors("unet")[f"{WIDE}.weight"], apart.tensors("unet")[f"{WIDE}.weight"])
    assert "words            <neon>, <neon>_1" in decisions(bundled)
    # One that is given by itself goes before it.
    save_file({"<neon>": 2 * vectors}, tmp_path / "other.safetensors")
    other = find_generator(
        tiny_generator, loras=[tmp_path / "both.safetensors"], embeddings={"<neon>": tmp_path / "other.safetensors"}
    )
    np.testing.assert_array_equal(other.tables["text_encoder"][-2:], 2 * vectors)


def test_bundled_words_of_sdxl_come_with_a_lora(tmp_path: Path) -> None:
    file = originals.write_single_file(tmp_path, "xl")
    pair = {"clip_l": numbers(2, 64), "clip_g": numbers(2, 64, seed=1)}
    save_file({f"bundle_emb.<neon>.{name}": array for name, array in pair.items()}, tmp_path / "x.safetensors")
    tables = find_generator(file, loras=[tmp_path / "x.safetensors"]).tables
    for part, array in zip(("text_encoder", "text_encoder_2"), pair.values(), strict=True):
        np.testing.assert_array_equal(tables[part][-2:], array)


@pytest.mark.parametrize("value", ["x", [], {"lora_alpha": "much"}, {"alpha_pattern": [1]}, {"alpha_pattern": {"(": 1}}])
def test_broken_metadata_is_named(tiny_generator: Path, tmp_path: Path, value: Any) -> None:
    settings = {f"unet.{key}": item for key, item in value.items()} if isinstance(value, dict) else value
    tensors = {f"unet.{ATTENTION}.lora_A.weight": numbers(2, 16), f"unet.{ATTENTION}.lora_B.weight": numbers(16, 2)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": json.dumps(settings)})
    with pytest.raises(UserError, match=r"its metadata lora_adapter_metadata"):
        find_generator(tiny_generator, loras=[tmp_path / "x.safetensors"])


@pytest.mark.parametrize(
    "start", ["", "text_model.", "base_model.model.", "base_model.model.text_model.", "^", "^text_model\\."]
)
def test_alphas_in_metadata_find_their_layer_under_every_name(tiny_generator: Path, tmp_path: Path, start: str) -> None:
    """Metadata name layers as tensors do: with `text_model.` and PEFT's prefix, or without."""
    settings = {"text_encoder.lora_alpha": 2, "text_encoder.r": 2, "text_encoder.alpha_pattern": {f"{start}{TEXT}": 6}}
    a, b = numbers(2, 32), numbers(32, 2)
    tensors = {f"text_encoder.text_model.{TEXT}.lora_A.weight": a, f"text_encoder.text_model.{TEXT}.lora_B.weight": b}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": json.dumps(settings)})
    before = find_generator(tiny_generator).tensors("text_encoder")[f"{TEXT}.weight"]
    after = find_generator(tiny_generator, loras=[tmp_path / "x.safetensors"]).tensors("text_encoder")[f"{TEXT}.weight"]
    np.testing.assert_allclose(after - before, 3 * b @ a, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq"])
def test_a_lora_that_began_by_changing_the_base_is_refused(tiny_generator: Path, tmp_path: Path, start: str) -> None:
    """The kind: PEFT's ways to begin that take a part out of the base's weights, which the file does not hold."""
    tensors = {f"unet.{ATTENTION}.lora_A.weight": numbers(2, 16), f"unet.{ATTENTION}.lora_B.weight": numbers(16, 2)}
    metadata = {"lora_adapter_metadata": json.dumps({"unet.init_lora_weights": start, "unet.lora_alpha": 2})}
    save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(UserError, match=rf"init_lora_weights '{start}'"):
        find_generator(tiny_generator, loras=[tmp_path / "x.safetensors"])


def test_a_bare_adapter_of_another_kind_or_of_both_text_encoders_is_refused(tiny_generator: Path, tmp_path: Path) -> None:
    halves = {f"base_model.model.text_model.{TEXT}.lora_{s}.weight": numbers(*(2, 64) if s == "A" else (64, 2)) for s in "AB"}
    save_file(halves, tmp_path / "adapter_model.safetensors")
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    file = originals.write_single_file(tmp_path / "xl", "xl")
    with pytest.raises(UserError, match=r"fc1 is in both text encoders|q_proj is in both text encoders"):
        find_generator(file, loras=[tmp_path])
    config.write_text(json.dumps({"peft_type": "LOHA"}))
    with pytest.raises(UserError, match=r"adapter_config\.json: an adapter of kind 'LOHA' is not supported"):
        find_generator(tiny_generator, loras=[tmp_path])


def test_two_adapters_in_a_file_are_named(tiny_generator: Path, tmp_path: Path) -> None:
    tensors = {}
    for adapter, layer, shape in (("one", ATTENTION, (16, 16)), ("two", WIDE, (128, 16))):
        tensors[f"unet.{layer}.lora_A.{adapter}.weight"] = numbers(2, shape[1])
        tensors[f"unet.{layer}.lora_B.{adapter}.weight"] = numbers(shape[0], 2)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"holds two adapters, '(one|two)' and '(one|two)'"):
        find_generator(tiny_generator, loras=[tmp_path / "x.safetensors"])


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["loha", "lokr"])
@pytest.mark.parametrize("convolution", [False, True], ids=["dense", "convolution"])
def test_the_changes_are_those_of_peft(tiny_generator: Path, tmp_path: Path, kind: str, convolution: bool) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    layer = CONVOLUTION if convolution else WIDE
    module = torch.nn.Conv2d(16, 16, 3) if convolution else torch.nn.Linear(16, 128)
    config = {"loha": peft.LoHaConfig, "lokr": peft.LoKrConfig}[kind](
        r=1 if convolution else 3, alpha=int(ALPHA), target_modules=["0"], init_weights=False
    )
    model = peft.get_peft_model(torch.nn.Sequential(module), config)
    adapted = model.base_model.model[0]
    tensors = {}
    for name, value in adapted.state_dict().items():
        if name.endswith(".default") and name.startswith(("hada", "lokr")):
            tensors[f"{kohya(layer)}.{name.removesuffix('.default')}"] = value.numpy()
    tensors[f"{kohya(layer)}.alpha"] = np.array(ALPHA, np.float32)
    expected = adapted.get_delta_weight("default").detach().numpy()
    found = changed(tiny_generator, tmp_path / "x.safetensors", tensors)
    np.testing.assert_allclose(found[f"{layer}.weight"], SCALE * expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("place", ["unet", "kohya"])
@pytest.mark.parametrize("convolution", [False, True], ids=["dense", "convolution"])
def test_a_dora_is_that_of_peft(tiny_generator: Path, tmp_path: Path, convolution: bool, place: str) -> None:
    """PEFT's own file, at a scale that diffusers' `set_adapters` gives it; and the same under the names of kohya."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    layer = CONVOLUTION if convolution else WIDE
    weight = np.array(find_generator(tiny_generator).tensors("unet")[f"{layer}.weight"])
    module = torch.nn.Conv2d(16, 16, 3) if convolution else torch.nn.Linear(16, 128)
    module.weight.data = torch.from_numpy(weight)
    config = peft.LoraConfig(r=3, lora_alpha=int(ALPHA), use_dora=True, target_modules=["0"], init_lora_weights=False)
    model = peft.get_peft_model(torch.nn.Sequential(module), config)
    adapted = model.base_model.model[0]
    lengths = adapted.lora_magnitude_vector["default"].weight
    lengths.data *= torch.linspace(0.5, 1.5, lengths.numel()).reshape(lengths.shape)
    tensors = {}
    for name, value in peft.get_peft_model_state_dict(model).items():
        inner = name.removeprefix("base_model.model.0.")
        if place == "kohya":
            for ours, theirs in (("lora_A", "lora_down"), ("lora_B", "lora_up"), ("lora_magnitude_vector", "dora_scale")):
                inner = inner.replace(ours, theirs)
            value = value.flatten() if "dora" in inner else value
        tensors[f"{kohya(layer) if place == 'kohya' else f'unet.{layer}'}.{inner}"] = value.detach().numpy()
    assert len(tensors) == 3
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": ALPHA, "unet.r": 3, "unet.use_dora": True})}
    save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
    found = find_generator(tiny_generator, loras=[(tmp_path / "x.safetensors", SCALE)]).tensors("unet")[f"{layer}.weight"]
    adapted.set_scale("default", SCALE)
    adapted.merge()
    np.testing.assert_allclose(found, adapted.get_base_layer().weight.detach().numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_folder_of_peft_is_that_of_peft(tiny_generator: Path, tmp_path: Path, part: str) -> None:
    """`save_pretrained` of an adapter of one network; its alphas stand in `adapter_config.json`, which the digest covers."""
    peft = pytest.importorskip("peft")
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    kind = diffusers.UNet2DConditionModel if part == "unet" else transformers.CLIPTextModel
    targets, special = (["to_q", "conv1"], "attn1.to_q") if part == "unet" else (["q_proj", "fc1"], "self_attn.q_proj")
    config = peft.LoraConfig(
        r=3, lora_alpha=6, alpha_pattern={special: 2}, target_modules=targets, init_lora_weights=False, use_dora=part == "unet"
    )
    adapted = peft.get_peft_model(kind.from_pretrained(tiny_generator / part), config)
    adapted.save_pretrained(tmp_path / "adapter")
    spec = find_generator(tiny_generator, loras=[tmp_path / "adapter"])
    theirs = {name.removeprefix("text_model."): array for name, array in adapted.merge_and_unload().state_dict().items()}
    before, ours = find_generator(tiny_generator).tensors(part), spec.tensors(part)
    differences = 0
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name].numpy(), rtol=1e-3, atol=1e-5, err_msg=name)
        differences += bool(np.abs(array - before[name]).max() > 1e-4)
    assert differences >= 4
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"lora_alpha": 3, "use_dora": part == "unet"}))
    assert content_digest(find_generator(tiny_generator, loras=[tmp_path / "adapter"])) != content_digest(spec)
