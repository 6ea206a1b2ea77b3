"""Small random generators of the three families, and their single files under the original names. Made without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from benchmarks.reduced.generator import write_tokenizer
from bridgejax.models import original_layout as layout
from bridgejax.models.clip_text import CLIP_TEXT_RULES, CLIPTextModel
from bridgejax.models.safetensors_files import save_tensors
from bridgejax.models.unet import UNET_LINEAR_RULES, UNET_RULES, UNet2DCondition
from bridgejax.models.vae import VAE_RULES, AutoencoderKL
from bridgejax.models.weights import _dotted, _parameters, _source_of, _source_shape

FAMILIES = ("sd1", "sd2", "xl")


def unet_config(family: str) -> dict[str, Any]:
    """Configs of which each key can be read off the tensors or follows the family."""
    plain = {"in_channels": 4, "out_channels": 4, "norm_num_groups": 32, "mid_block_type": "UNetMidBlock2DCrossAttn"}
    if family == "sd1":
        return plain | {
            "sample_size": 64,
            "block_out_channels": [32, 64],
            "layers_per_block": 2,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "cross_attention_dim": 64,
            "attention_head_dim": 8,
            "use_linear_projection": False,
            "transformer_layers_per_block": 1,
        }
    if family == "sd2":
        return plain | {
            "sample_size": 96,
            "block_out_channels": [64, 128, 128],
            "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            "cross_attention_dim": 64,
            "attention_head_dim": [1, 2, 2],
            "use_linear_projection": True,
            "transformer_layers_per_block": 1,
        }
    return plain | {
        "sample_size": 128,
        "block_out_channels": [32, 64],
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 128,
        "attention_head_dim": [1, 1],
        "use_linear_projection": True,
        "transformer_layers_per_block": [1, 2],
        "addition_embed_type": "text_time",
        "projection_class_embeddings_input_dim": 48 + 6 * 32,
        "addition_time_embed_dim": 32,
    }


def vae_config(family: str) -> dict[str, Any]:
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "norm_num_groups": 32,
        "scaling_factor": 0.13025 if family == "xl" else 0.18215,
    }


def text_configs(family: str) -> list[dict[str, Any]]:
    plain = {
        "vocab_size": 514,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "max_position_embeddings": 77,
        "projection_dim": 64,
        "bos_token_id": 512,
        "eos_token_id": 513,
    }
    clip = plain | {"hidden_act": "quick_gelu"}
    return {
        "sd1": [clip],
        "sd2": [plain | {"hidden_act": "gelu"}],
        "xl": [clip, plain | {"hidden_act": "gelu", "projection_dim": 48}],
    }[family]


def shapes_of(build: Any, rules: Any) -> dict[str, tuple[int, ...]]:
    """Returns diffusers name → shape in PyTorch's layout of a model that is never made."""
    shapes = {}
    for path, variable in _parameters(nnx.eval_shape(build))[1].items():
        source, transform = _source_of(_dotted(path), rules)
        shapes[source] = tuple(_source_shape(tuple(variable.get_value().shape), transform))
    return shapes


def part_shapes(unet: dict, vae: dict, texts: list[dict], projections: list[bool]) -> dict[str, dict[str, tuple[int, ...]]]:
    rules = UNET_LINEAR_RULES if unet["use_linear_projection"] else UNET_RULES
    parts = {
        "unet": shapes_of(lambda: UNet2DCondition(unet, rngs=nnx.Rngs(0)), rules),
        "vae": shapes_of(lambda: AutoencoderKL(vae, rngs=nnx.Rngs(0)), VAE_RULES),
    }
    for name, config, projection in zip(("text_encoder", "text_encoder_2"), texts, projections, strict=False):
        model = shapes_of(
            lambda config=config, p=projection: CLIPTextModel(config, projection=p, rngs=nnx.Rngs(0)), CLIP_TEXT_RULES
        )
        parts[name] = model
    return parts


def random_parts(family: str, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Returns part → diffusers name → float32 array; no layer is zero."""
    rng = np.random.default_rng(seed)
    texts = text_configs(family)
    shapes = part_shapes(unet_config(family), vae_config(family), texts, [False, True][: len(texts)])

    def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:
            return rng.normal(1.0 if name.endswith("weight") else 0.0, 0.1, shape).astype(np.float32)
        return rng.normal(0, 1 / np.prod(shape[1:]) ** 0.5, shape).astype(np.float32)

    return {part: {name: fill(name, shape) for name, shape in names.items()} for part, names in shapes.items()}


def original_names(family: str, parts: dict[str, dict[str, np.ndarray]], unet: dict, vae: dict) -> dict[str, np.ndarray]:
    """Returns the tensors as a published file of the family names and shapes them."""
    table = layout.unet_table_of_config(unet)
    file = {layout.UNET_PREFIX + str(table.to_original(name)): array for name, array in parts["unet"].items()}
    table = layout.vae_table(len(vae["block_out_channels"]), vae["layers_per_block"])
    for name, array in parts["vae"].items():
        if ".attentions." in name and array.ndim == 2:
            array = array[:, :, None, None]
        file[layout.VAE_PREFIX + str(table.to_original(name))] = array
    clip = {"sd1": layout.SD1_TEXT_PREFIX, "xl": layout.XL_TEXT_PREFIX}.get(family)
    if clip:
        file |= {f"{clip}text_model.{name}": array for name, array in parts["text_encoder"].items()}
        positions = parts["text_encoder"]["embeddings.position_embedding.weight"].shape[0]
        file[f"{clip}text_model.embeddings.position_ids"] = np.arange(positions)[None]
    if family == "sd2":
        file |= open_clip(parts["text_encoder"], layout.SD2_TEXT_PREFIX, extra_layer=True)
    if family == "xl":
        file |= open_clip(parts["text_encoder_2"], layout.XL_TEXT_2_PREFIX)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    extra = {"betas": betas, "alphas_cumprod": np.cumprod(1 - betas), "model_ema.decay": np.float32(0.9999)[None]}
    extra["model_ema.diffusion_modelinput_blocks00weight"] = np.zeros((4, 4, 3, 3))
    return file | {name: np.asarray(array, np.float32) for name, array in extra.items()}


def open_clip(tensors: dict[str, np.ndarray], prefix: str, extra_layer: bool = False) -> dict[str, np.ndarray]:
    """Returns a text encoder as OpenCLIP saves it; SD 2.x holds a last layer that is not used."""
    layers = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layers."))
    file: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        original = layout.open_clip_original(name, layers)
        if ".q_proj." in name:
            joint = [tensors[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            array = (
                np.concatenate(joint) if joint[0].size < 2**20 else np.broadcast_to(0, (3 * array.shape[0], *array.shape[1:]))
            )
        elif ".k_proj." in name or ".v_proj." in name:
            continue
        file[prefix + str(original)] = array.T if name.startswith("text_projection") else array
    width = tensors["final_layer_norm.bias"].shape[0]
    file[f"{prefix}logit_scale"] = np.asarray(4.6, np.float32)
    if extra_layer:
        start = f"{prefix}transformer.resblocks.0."
        for name in [name for name in file if name.startswith(start)]:
            file[name.replace("resblocks.0.", f"resblocks.{layers}.")] = np.ones_like(file[name])
        file[f"{prefix}text_projection"] = np.eye(width, dtype=np.float32)
    return file


def write_single_file(folder: Path, family: str, dtype: Any = np.float32) -> Path:
    """Writes `FAMILY.safetensors` and the folder `tokenizer` below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = random_parts(family)
    file = folder / f"{family}.safetensors"
    tensors = original_names(family, parts, unet_config(family), vae_config(family))
    save_tensors(file, {name: np.ascontiguousarray(array.astype(dtype)) for name, array in tensors.items()})
    write_tokenizer(folder / "tokenizer")
    return file


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path
