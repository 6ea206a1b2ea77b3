"""The networks of a generator as one module, and what is computed with them besides sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.models.clip_text import CLIPTextModel
from bridgejax.models.unet import UNet2DCondition
from bridgejax.models.vae import AutoencoderKL


class Networks(nnx.Module):
    """Text encoders (one, or two for SDXL), UNet and autoencoder."""

    def __init__(self, text_encoders: Sequence[CLIPTextModel], unet: UNet2DCondition, vae: AutoencoderKL):
        self.text_encoders = nnx.List(list(text_encoders))
        self.unet = unet
        self.vae = vae

    def encode_text(self, ids: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array | None]:
        """Returns the UNet's context and, for SDXL, the pooled embedding.

        Args:
          ids: int32 [n, tokens] for each text encoder.

        Returns:
          float32 [n, tokens, d] and [n, p] or None. One encoder: its last hidden state. Two: the hidden states
          before each one's last layer, joined, and the projection of the second (Podell et al. 2023, section 2.1).
        """
        outputs = [encoder(tokens) for encoder, tokens in zip(self.text_encoders, ids, strict=True)]
        if self.unet.addition != "text_time":
            return outputs[0].last_hidden_state, None
        return jnp.concatenate([output.penultimate for output in outputs], -1), outputs[-1].pooled

    def encode(self, images: jax.Array) -> jax.Array:
        """Returns latents as the UNet sees them (posterior mean × scaling factor) of images in [0, 1]."""
        return self.vae.encode(images * 2.0 - 1.0)[0] * self.vae.scaling_factor

    def decode(self, latents: jax.Array) -> jax.Array:
        """Returns images float32 [n, h, w, 3] in [0, 1] of latents as the UNet sees them."""
        return jnp.clip(self.vae.decode(latents / self.vae.scaling_factor) / 2.0 + 0.5, 0.0, 1.0)

    def predict(
        self,
        latents: jax.Array,
        timestep: jax.Array,
        context: jax.Array,
        pooled: jax.Array | None,
        size: tuple[int, int],
        embedded_guidance: jax.Array | None,
    ) -> jax.Array:
        """Returns the UNet's output, float32 [n, h, w, c].

        Args:
          latents: [n, h, w, c], scaled by the scheduler.
          timestep: scalar or [n].
          context: [n, tokens, d].
          pooled: [n, p] (SDXL) or None.
          size: height and width of the image in pixels (SDXL).
          embedded_guidance: scalar guidance scale for UNets that take it as an input (LCM), else None.
        """
        batch = latents.shape[0]
        time_ids = condition = None
        if self.unet.addition == "text_time":
            # Original size, crop corner and target size: the full image, uncropped.
            time_ids = jnp.broadcast_to(jnp.asarray([*size, 0, 0, *size], jnp.float32), (batch, 6))
        cond_proj = self.unet.time_embedding.cond_proj
        if cond_proj is not None and embedded_guidance is not None:
            embedding = guidance_embedding(embedded_guidance, cond_proj.in_features)
            condition = jnp.broadcast_to(embedding, (batch, cond_proj.in_features))
        return self.unet(latents, timestep, context, pooled=pooled, time_ids=time_ids, timestep_cond=condition)


def guidance_embedding(scale: jax.Array, width: int) -> jax.Array:
    """Returns sinusoids float32 [width] of 1000 · (scale − 1) (Luo et al. 2023, arXiv:2310.04378, as published)."""
    half = width // 2
    rates = jnp.exp(-math.log(10000.0) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angles = (scale - 1.0) * 1000.0 * rates
    return jnp.pad(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)]), (0, width % 2))
