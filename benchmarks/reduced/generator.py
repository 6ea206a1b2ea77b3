"""A random generator of a few thousand weights in the diffusers layout, made without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.random_generator import SCHEDULER
from bridgejax.diffusion.folder import save_folder
from bridgejax.diffusion.networks import Networks
from bridgejax.models.clip_text import CLIPTextModel
from bridgejax.models.unet import UNet2DCondition
from bridgejax.models.vae import AutoencoderKL

UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
VAE = {
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "scaling_factor": 0.5,
}
TEXT = {
    "model_type": "clip_text_model",
    "vocab_size": 514,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 513,
}


def write_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> Path:
    """Writes a CLIP tokenizer whose tokens are single bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def build_networks() -> Networks:
    """Random networks, filled by NumPy: no layer is zero, so that nothing is trivial."""

    def build() -> Networks:
        rngs = nnx.Rngs(0)
        return Networks([CLIPTextModel(TEXT, rngs=rngs)], UNet2DCondition(UNET, rngs=rngs), AutoencoderKL(VAE, rngs=rngs))

    rng = np.random.default_rng(1)

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        spread = 0.02 if len(leaf.shape) == 1 else 1 / np.prod(leaf.shape[:-1]) ** 0.5
        centre = 1.0 if "scale" in str(path) else 0.0
        return jnp.asarray(rng.normal(centre, spread, leaf.shape), leaf.dtype)

    graph, state = nnx.split(nnx.eval_shape(build))
    return nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, state))


def write_generator(root: Path) -> Path:
    """Writes the folder of a tiny generator below `root`: 16×16 pixels, 8×8 latents."""
    tokenizer = write_tokenizer(root / "tokenizer")
    save_folder(
        root / "tiny", build_networks(), unet=UNET, vae=VAE, text_encoders=[TEXT], scheduler=SCHEDULER, tokenizers=[tokenizer]
    )
    return root / "tiny"
