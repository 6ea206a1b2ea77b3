"""The tiny distilled autoencoder (TAESD), built from a diffusers `config.json`; parameter names follow AutoencoderTiny.

Source: Ollin Boer Bohan, "Tiny AutoEncoder for Stable Diffusion", 2023 (github.com/madebyollin/taesd).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models.activations import ACTIVATIONS, DIFFUSERS, checked_activation
from bridgejax.models.attention import Identity
from bridgejax.models.config_values import read_known
from bridgejax.models.layers import Conv2d, LayerOptions, upsample_nearest
from bridgejax.models.weights import torch_rules

VAE_TINY_RULES = torch_rules(conv=r".+")


@dataclass(frozen=True)
class TinyVAEConfig:
    """The keys of an AutoencoderTiny's `config.json` that are read, with the defaults of diffusers."""

    in_channels: int = 3
    out_channels: int = 3
    encoder_block_out_channels: Sequence[int] = (64, 64, 64, 64)
    decoder_block_out_channels: Sequence[int] = (64, 64, 64, 64)
    act_fn: str = "relu"
    latent_channels: int = 4
    num_encoder_blocks: Sequence[int] = (1, 3, 3, 3)
    num_decoder_blocks: Sequence[int] = (3, 3, 3, 1)
    scaling_factor: float = 1.0


FIXED: dict[str, tuple[object, ...]] = {
    "upsample_fn": ("nearest",),
    "upsampling_scaling_factor": (2,),
    "shift_factor": (0.0, None),
}
# Only the byte packing of latents reads the magnitude and the shift; block_out_channels repeats the decoder's.
IGNORED = ("latent_magnitude", "latent_shift", "force_upcast", "block_out_channels", "sample_size")


class ActivationLayer(nnx.Module):
    """An activation in a numbered list of layers."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, x: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.name](x)


class Enlarge(nnx.Module):
    """Twice the size by nearest neighbour, in a numbered list of layers."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return upsample_nearest(x, 2 * x.shape[1], 2 * x.shape[2])


class Block(nnx.Module):
    """Three convolutions with activations between, added to the input, then ReLU."""

    def __init__(self, features: int, activation: str, **options: Unpack[LayerOptions]):
        def conv() -> Conv2d:
            return Conv2d(features, features, **options)

        self.conv = nnx.List([conv(), ActivationLayer(activation), conv(), ActivationLayer(activation), conv()])
        self.skip = Identity()

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for layer in self.conv:
            y = layer(y)
        return jax.nn.relu(y + self.skip(x))


def _encoder(c: TinyVAEConfig, options: LayerOptions) -> nnx.Sequential:
    channels = c.encoder_block_out_channels
    layers: list[nnx.Module] = []
    for i, (features, blocks) in enumerate(zip(channels, c.num_encoder_blocks, strict=True)):
        stride = 2 if i else 1
        layers.append(Conv2d(features if i else c.in_channels, features, stride=stride, use_bias=not i, **options))
        layers += [Block(features, c.act_fn, **options) for _ in range(blocks)]
    return nnx.Sequential(*layers, Conv2d(channels[-1], c.latent_channels, **options))


def _decoder(c: TinyVAEConfig, options: LayerOptions) -> nnx.Sequential:
    channels = c.decoder_block_out_channels
    layers: list[nnx.Module] = [Conv2d(c.latent_channels, channels[0], **options), ActivationLayer(c.act_fn)]
    for i, (features, blocks) in enumerate(zip(channels, c.num_decoder_blocks, strict=True)):
        last = i == len(channels) - 1
        layers += [Block(features, c.act_fn, **options) for _ in range(blocks)]
        if not last:
            layers.append(Enlarge())
        layers.append(Conv2d(features, c.out_channels if last else features, use_bias=last, **options))
    return nnx.Sequential(*layers)


class AutoencoderTiny(nnx.Module):
    """Images in [-1, 1] to latents and back, without a posterior; the scaling factor is applied by the caller."""

    def __init__(self, config: JSONObject, *, where: str = "VAE config", **options: Unpack[LayerOptions]):
        """Builds the network of a diffusers `config.json` (AutoencoderTiny).

        Raises:
          UserError: the config asks for something that is not supported; the file (`where`) and the key are named.
        """
        c = read_known(TinyVAEConfig, config, FIXED, IGNORED, where)
        checked_activation(c.act_fn, f"{where}: act_fn", DIFFUSERS)
        for side, channels, blocks in (
            ("encoder", list(c.encoder_block_out_channels), list(c.num_encoder_blocks)),
            ("decoder", list(c.decoder_block_out_channels), list(c.num_decoder_blocks)),
        ):
            if len(channels) != len(blocks) or len(set(channels)) != 1:
                raise UserError(
                    f"{where}: {side}_block_out_channels = {channels} must repeat one width, "
                    f"once for each of num_{side}_blocks = {blocks}."
                )
        if len(c.num_encoder_blocks) != len(c.num_decoder_blocks):
            raise UserError(f"{where}: num_encoder_blocks and num_decoder_blocks must be equally long.")
        self.encoder = _encoder(c, options)
        self.decoder = _decoder(c, options)
        self.scaling_factor = float(c.scaling_factor)
        self.latent_channels = int(c.latent_channels)
        self.factor = 2 ** (len(c.num_decoder_blocks) - 1)

    def moments(self, images: jax.Array) -> jax.Array:
        """Returns the latents alone, [n, h/f, w/f, latent_channels] float32: this autoencoder has no variance."""
        return self.encode(images)

    def encode(self, images: jax.Array) -> jax.Array:
        """Returns latents [n, h/f, w/f, latent_channels] float32 of images [n, h, w, in_channels] in [-1, 1]."""
        return self.encoder((images + 1.0) / 2.0).astype(jnp.float32)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Returns images [n, h, w, out_channels] float32, nominally in [-1, 1], from unscaled latents."""
        bounded = jnp.tanh(latents / 3.0) * 3.0
        return self.decoder(bounded).astype(jnp.float32) * 2.0 - 1.0
