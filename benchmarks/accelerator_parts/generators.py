"""Generators of the published sizes with random weights, made in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.accelerator_parts.filled import filled
from benchmarks.accelerator_parts.products import Products, products
from benchmarks.random_generator import SCHEDULER, SIZES, TOKENIZER
from bridgejax.diffusion.networks import Networks
from bridgejax.diffusion.pipeline import Pipeline
from bridgejax.diffusion.spec import GeneratorSpec
from bridgejax.models.building import ShapesOnly
from bridgejax.models.clip_text import CLIPTextModel
from bridgejax.models.tokenizer import TokenizerSource
from bridgejax.models.unet import UNet2DCondition
from bridgejax.models.vae import AutoencoderKL

_TOKENS = {"vocab_size": 49408, "bos_token_id": 1554, "eos_token_id": 1555, "pad_token_id": 1555}
_SMALL_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_SMALL_VAE = {
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "sample_size": 16,
}
_SMALL_UNET = {
    "sample_size": 8,
    "block_out_channels": [16],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
}
_SMALL_XL = {
    "cross_attention_dim": 64,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
}
PLANS: dict[str, dict[str, Any]] = {
    "sd15": SIZES["sd15"],
    "sdxl": SIZES["sdxl"],
    # A few thousand weights with the same kinds of layers.
    "small sd15": {"unet": _SMALL_UNET, "vae": _SMALL_VAE, "text": [_SMALL_TEXT]},
    "small sdxl": {
        "unet": {**_SMALL_UNET, **_SMALL_XL},
        "vae": _SMALL_VAE,
        "text": [_SMALL_TEXT, {**_SMALL_TEXT, "projection_dim": 32, "hidden_act": "gelu"}],
    },
}


def shapes(size: str, dtype: Any) -> Networks:
    """Returns the networks of a size in `PLANS` without weights; SDXL's autoencoder is float32, as at loading."""
    plan = PLANS[size]
    options: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype, "rngs": ShapesOnly()}
    xl = len(plan["text"]) > 1
    vae_options = {**options, "dtype": jnp.float32, "param_dtype": jnp.float32} if xl else options
    encoders = [CLIPTextModel({**_TOKENS, **text}, projection=k > 0, **options) for k, text in enumerate(plan["text"])]
    return Networks(encoders, UNet2DCondition(plan["unet"], **options), AutoencoderKL(plan["vae"], **vae_options))


def random_pipeline(size: str, dtype: Any) -> Pipeline:
    """Returns a pipeline of a size in `PLANS` with random weights on the default device, with the embedded tokenizer."""
    plan = PLANS[size]
    count = len(plan["text"])
    description = GeneratorSpec(
        folder=Path(size.replace(" ", "_")),
        index={"_class_name": "StableDiffusionPipeline" if count == 1 else "StableDiffusionXLPipeline"},
        unet=plan["unet"],
        vae=plan["vae"],
        text_encoders=tuple({**_TOKENS, **text} for text in plan["text"]),
        projections=tuple(number > 0 for number in range(count)),
        scheduler=SCHEDULER,
        tokenizers=(TokenizerSource(TOKENIZER),) * count,
    )
    return Pipeline(description, filled(shapes(size, dtype)))


def image_products(size: str, steps: int) -> Products:
    """Returns what one guided image multiplies: the text twice, two UNet calls for each step, the autoencoder's decoder.

    Counted in the float32 program of the same networks, where no kernel hides its products.
    """
    networks = shapes(size, jnp.float32)
    unet, decoder = one_call_products(networks, PLANS[size]["unet"]["sample_size"])
    graph, state = nnx.split(networks)
    ids = [jax.ShapeDtypeStruct((1, encoder.max_tokens), jnp.int32) for encoder in networks.text_encoders]
    text = products(lambda state, ids: nnx.merge(graph, state).encode_text(ids), abstract(state), ids)
    return text * 2 + unet * (2 * steps) + decoder


def one_call_products(networks: Networks, side: int) -> tuple[Products, Products]:
    """Returns what one UNet call and one decoding multiply, for one image of `side`² latents."""
    graph, state = nnx.split(networks)
    latents = jax.ShapeDtypeStruct((1, side, side, networks.vae.latent_channels), jnp.float32)
    ids = [jax.ShapeDtypeStruct((1, encoder.max_tokens), jnp.int32) for encoder in networks.text_encoders]
    size = (side * networks.vae.factor,) * 2
    context, pooled = jax.eval_shape(lambda state, ids: nnx.merge(graph, state).encode_text(ids), abstract(state), ids)

    def predict(state: Any, latents: Any, context: Any, pooled: Any) -> Any:
        return nnx.merge(graph, state).predict(latents, np.float32(500), context, pooled, size, None)

    unet = products(predict, abstract(state), latents, context, pooled)
    return unet, products(lambda state, latents: nnx.merge(graph, state).decode(latents), abstract(state), latents)


def abstract(tree: Any) -> Any:
    """Returns the shapes and dtypes of a tree of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
