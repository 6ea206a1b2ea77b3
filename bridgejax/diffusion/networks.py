"""The networks of a generator as one module, and what is computed with them besides sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models.clip_text import CLIPTextModel, Words
from bridgejax.models.unet import UNet2DCondition
from bridgejax.models.vae import VAE_RULES, AutoencoderKL
from bridgejax.models.vae_tiny import VAE_TINY_RULES, AutoencoderTiny
from bridgejax.models.weights import Rule

Autoencoder = AutoencoderKL | AutoencoderTiny
_VAE_CLASSES: dict[str, tuple[type[Autoencoder], tuple[Rule, ...]]] = {
    "AutoencoderKL": (AutoencoderKL, VAE_RULES),
    "AutoencoderTiny": (AutoencoderTiny, VAE_TINY_RULES),
}


def vae_class(config: JSONObject) -> tuple[type[Autoencoder], tuple[Rule, ...]]:
    """Returns the class of an autoencoder's config and its weight table.

    Raises:
      UserError: the class is not supported; it is named.
    """
    kind = str(config.get("_class_name") or "AutoencoderKL")
    if kind not in _VAE_CLASSES:
        raise UserError(f"the autoencoder {kind} is not supported; it must be one of {', '.join(_VAE_CLASSES)}.")
    return _VAE_CLASSES[kind]


class Networks(nnx.Module):
    """Text encoders (one, or two for SDXL), UNet and autoencoder.

    Attributes:
      vae_slice: images that the autoencoder takes at once on each device; None means all.
      vae_tile: side in pixels of the overlapping tiles in which larger images are encoded and decoded; None means whole.
      parts: over how many devices a batch is split.
    """

    def __init__(self, text_encoders: Sequence[CLIPTextModel], unet: UNet2DCondition, vae: Autoencoder):
        self.text_encoders = nnx.List(list(text_encoders))
        self.unet = unet
        self.vae = vae
        self.vae_slice: int | None = None
        self.vae_tile: int | None = None
        self.parts = 1

    def encode_text(self, ids: Sequence[jax.Array], words: Sequence[Words] | None = None) -> tuple[jax.Array, jax.Array | None]:
        """Returns the UNet's context and, for SDXL, the pooled embedding.

        Args:
          ids: int32 [n, tokens] for each text encoder.
          words: embeddings that replace those of some ids, for each text encoder (`bridgejax.inversion.token_step`).

        Returns:
          float32 [n, tokens, d] and [n, p] or None. One encoder: its last hidden state. Two: the hidden states
          before each one's last layer, joined, and the projection of the second (Podell et al. 2023, section 2.1).
        """
        given = [None] * len(ids) if words is None else words
        outputs = [encoder(tokens, word) for encoder, tokens, word in zip(self.text_encoders, ids, given, strict=True)]
        if self.unet.addition != "text_time":
            return outputs[0].last_hidden_state, None
        return jnp.concatenate([output.penultimate for output in outputs], -1), outputs[-1].pooled

    def encode(self, images: jax.Array) -> jax.Array:
        """Returns latents as the UNet sees them (posterior mean × scaling factor) of images in [0, 1]."""
        return self.moments(images)[..., : self.vae.latent_channels] * self.vae.scaling_factor

    def moments(self, images: jax.Array) -> jax.Array:
        """Returns the autoencoder's posterior of images in [0, 1], not scaled: see `moments` of the autoencoder."""

        def moments_of(pixels: jax.Array) -> jax.Array:
            if self.vae_tile is None:
                return self.vae.moments(pixels)
            return tiled(self.vae.moments, pixels, self.vae_tile, self.vae_tile // self.vae.factor)

        return self._sliced(moments_of, images * 2.0 - 1.0)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Returns images float32 [n, h, w, 3] in [0, 1] of latents as the UNet sees them."""

        def images_of(z: jax.Array) -> jax.Array:
            if self.vae_tile is None:
                return self.vae.decode(z)
            return tiled(self.vae.decode, z, self.vae_tile // self.vae.factor, self.vae_tile)

        return jnp.clip(self._sliced(images_of, latents / self.vae.scaling_factor) / 2.0 + 0.5, 0.0, 1.0)

    def _sliced(self, function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        """Returns function(x), computed for `vae_slice` images per device at a time, one after another."""
        each = x.shape[0] // self.parts  # images on a device
        if self.vae_slice is None or each <= self.vae_slice or x.shape[0] % self.parts:
            return function(x)
        rounds = -(-each // self.vae_slice)
        padded = x.reshape(self.parts, each, *x.shape[1:])
        padded = jnp.pad(padded, ((0, 0), (0, rounds * self.vae_slice - each), *((0, 0),) * (x.ndim - 1)), mode="edge")
        # A round holds images of every device, so that none of them waits.
        turns = jnp.moveaxis(padded.reshape(self.parts, rounds, self.vae_slice, *x.shape[1:]), 1, 0)
        out = lax.map(function, turns.reshape(rounds, self.parts * self.vae_slice, *x.shape[1:]))
        out = jnp.moveaxis(out.reshape(rounds, self.parts, self.vae_slice, *out.shape[2:]), 0, 1)
        out = out.reshape(self.parts, rounds * self.vae_slice, *out.shape[3:])[:, :each]
        return out.reshape(x.shape[0], *out.shape[2:])

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


OVERLAP = 0.25  # share of a tile that its neighbour covers too


def tiled(function: Callable[[jax.Array], jax.Array], x: jax.Array, side: int, side_out: int) -> jax.Array:
    """Returns function(x) put together from overlapping square tiles, blended linearly, as diffusers' `enable_tiling` does.

    Args:
      function: maps [n, h, w, c] to [n, h · side_out / side, w · side_out / side, c'].
      x: [n, h, w, c]; if both sides are at most `side`, it is taken whole.
      side: of a tile of `x`; likewise `side_out` of the result.
    """
    if max(x.shape[1:3]) <= side:
        return function(x)
    stride, extent = int(side * (1 - OVERLAP)), int(side_out * OVERLAP)
    keep = side_out - extent
    rows, columns = (range(0, length, stride) for length in x.shape[1:3])
    cut = {(i, j): x[:, i : i + side, j : j + side] for i in rows for j in columns}
    # Tiles of one shape go through one copy of the network, one after another: little memory, a short program.
    tiles: dict[tuple[int, int], jax.Array] = {}
    for shape in {tile.shape for tile in cut.values()}:
        places = [place for place, tile in cut.items() if tile.shape == shape]
        if len(places) == 1:
            tiles[places[0]] = function(cut[places[0]])
            continue
        out = lax.map(function, jnp.stack([cut[place] for place in places]))
        tiles |= {place: out[k] for k, place in enumerate(places)}
    bands = []
    for i in rows:
        band = []
        for j in columns:
            if i:
                tiles[i, j] = _blend(tiles[i - stride, j], tiles[i, j], extent, 1)
            if j:
                tiles[i, j] = _blend(tiles[i, j - stride], tiles[i, j], extent, 2)
            band.append(tiles[i, j][:, :keep, :keep])
        bands.append(jnp.concatenate(band, axis=2))
    return jnp.concatenate(bands, axis=1)


def _blend(before: jax.Array, after: jax.Array, extent: int, axis: int) -> jax.Array:
    """Returns `after` with its first `extent` rows (or columns) faded in over the last ones of `before`."""
    extent = min(before.shape[axis], after.shape[axis], extent)
    if extent == 0:
        return after
    share = (jnp.arange(extent) / extent).reshape([-1 if k == axis else 1 for k in range(after.ndim)])
    old = lax.slice_in_dim(before, before.shape[axis] - extent, before.shape[axis], axis=axis)
    new, rest = jnp.split(after, [extent], axis=axis)
    return jnp.concatenate([old * (1 - share) + new * share, rest], axis=axis)
