"""The latent autoencoder of Stable Diffusion, built from a diffusers `config.json`.

Source: Rombach et al. 2022 (arXiv:2112.10752), appendix E; parameter names follow diffusers' AutoencoderKL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models.activations import DIFFUSERS, checked_activation
from bridgejax.models.attention import Attention
from bridgejax.models.config_values import read_known
from bridgejax.models.layers import Conv2d, GroupNorm, LayerOptions
from bridgejax.models.unet import CONVOLUTIONS, Resample, ResnetBlock
from bridgejax.models.weights import Rule, torch_rules


@dataclass(frozen=True)
class VAEConfig:
    """The keys of an AutoencoderKL's `config.json` that are read, with the defaults of diffusers."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: Sequence[str] = ("DownEncoderBlock2D",)
    up_block_types: Sequence[str] = ("UpDecoderBlock2D",)
    block_out_channels: Sequence[int] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    act_fn: str = "silu"  # of the ResNet blocks
    scaling_factor: float = 0.18215
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True


FIXED: dict[str, tuple[object, ...]] = dict.fromkeys(("shift_factor", "latents_mean", "latents_std"), (None,))
IGNORED = ("sample_size", "force_upcast")
_EPSILON = 1e-6

VAE_RULES = torch_rules(
    Rule(r"(.*attentions\.\d+)\.attention\.(.+)\.kernel", r"\1.\2.weight", "linear"),
    Rule(r"(.*attentions\.\d+)\.attention\.(.+)\.bias", r"\1.\2.bias"),
    conv=CONVOLUTIONS,
)
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def modern_vae_name(name: str) -> str:
    """Returns today's name of a VAE tensor: attention used to be query, key, value, proj_attn."""
    match = re.fullmatch(r"(.*attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", name)
    return f"{match[1]}.{_OLD_ATTENTION[match[2]]}.{match[3]}" if match else name


def modern_vae_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns VAE tensors under today's names, attention as matrices (some were 1×1 convolutions)."""
    renamed = {}
    for name, array in tensors.items():
        name = modern_vae_name(name)
        matrix = re.fullmatch(r".*attentions\.\d+\.to_(q|k|v|out\.0)\.weight", name) and array.shape[2:] == (1, 1)
        renamed[name] = array[:, :, 0, 0] if matrix else array
    return renamed


class PixelAttention(nnx.Module):
    """Single-head self-attention over pixels with its own group normalisation, residual."""

    def __init__(self, features: int, groups: int, **options: Unpack[LayerOptions]):
        self.group_norm = GroupNorm(groups, features, epsilon=_EPSILON, **options)
        self.attention = Attention(features, 1, qkv_bias=True, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, features = x.shape
        y = self.group_norm(x).reshape(batch, height * width, features)
        return x + self.attention(y).reshape(x.shape)


def _resnet(features_in: int, features: int, c: VAEConfig, **options: Unpack[LayerOptions]) -> ResnetBlock:
    return ResnetBlock(features_in, features, None, c.norm_num_groups, _EPSILON, activation=c.act_fn, **options)


class Middle(nnx.Module):
    """ResNet block, attention (optional), ResNet block."""

    def __init__(self, features: int, c: VAEConfig, **options: Unpack[LayerOptions]):
        groups, attend = c.norm_num_groups, c.mid_block_add_attention
        self.resnets = nnx.List([_resnet(features, features, c, **options) for _ in range(2)])
        self.attentions = nnx.List([PixelAttention(features, groups, **options)] if attend else [])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Level(nnx.Module):
    """ResNet blocks of one resolution and the step to the next."""

    def __init__(self, resnets: list[ResnetBlock], downsampler: Resample | None = None, upsampler: Resample | None = None):
        self.resnets = nnx.List(resnets)
        self.downsamplers = nnx.List([downsampler] if downsampler else [])
        self.upsamplers = nnx.List([upsampler] if upsampler else [])

    def __call__(self, x: jax.Array) -> jax.Array:
        for resnet in self.resnets:
            x = resnet(x)
        for down in self.downsamplers:
            x = down(x)
        for up in self.upsamplers:
            x = up(x, size=(2 * x.shape[1], 2 * x.shape[2]))
        return x


class Encoder(nnx.Module):
    """Images [n, h, w, c] → moments [n, h/f, w/f, 2 · latent_channels]."""

    def __init__(self, c: VAEConfig, **options: Unpack[LayerOptions]):
        channels, groups = c.block_out_channels, c.norm_num_groups
        self.conv_in = Conv2d(c.in_channels, channels[0], **options)
        levels = []
        for i, features in enumerate(channels):
            entering = [channels[max(i - 1, 0)]] + [features] * (c.layers_per_block - 1)
            # Torch pads only below and to the right before the strided convolution.
            down = Resample(features, 2, ((0, 1), (0, 1)), **options) if i < len(channels) - 1 else None
            levels.append(Level([_resnet(n, features, c, **options) for n in entering], downsampler=down))
        self.down_blocks = nnx.List(levels)
        self.mid_block = Middle(channels[-1], c, **options)
        self.conv_norm_out = GroupNorm(groups, channels[-1], epsilon=_EPSILON, **options)
        self.conv_out = Conv2d(channels[-1], 2 * c.latent_channels, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
    """Latents [n, h/f, w/f, latent_channels] → images [n, h, w, c]."""

    def __init__(self, c: VAEConfig, **options: Unpack[LayerOptions]):
        channels, groups = list(reversed(c.block_out_channels)), c.norm_num_groups
        self.conv_in = Conv2d(c.latent_channels, channels[0], **options)
        self.mid_block = Middle(channels[0], c, **options)
        levels = []
        for i, features in enumerate(channels):
            entering = [channels[max(i - 1, 0)]] + [features] * c.layers_per_block
            up = Resample(features, 1, 1, **options) if i < len(channels) - 1 else None
            levels.append(Level([_resnet(n, features, c, **options) for n in entering], upsampler=up))
        self.up_blocks = nnx.List(levels)
        self.conv_norm_out = GroupNorm(groups, channels[-1], epsilon=_EPSILON, **options)
        self.conv_out = Conv2d(channels[-1], c.out_channels, **options)

    def __call__(self, z: jax.Array) -> jax.Array:
        x = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class AutoencoderKL(nnx.Module):
    """Images in [-1, 1] to latents and back; the scaling factor is applied by the caller."""

    def __init__(self, config: JSONObject, *, where: str = "VAE config", **options: Unpack[LayerOptions]):
        """Builds the network of a diffusers `config.json` (AutoencoderKL).

        Raises:
          UserError: the config asks for something that is not supported; the file (`where`) and the key are named.
        """
        c = read_known(VAEConfig, config, FIXED, IGNORED, where)
        checked_activation(c.act_fn, f"{where}: act_fn", DIFFUSERS)
        blocks, groups = len(c.block_out_channels), c.norm_num_groups
        for key, types, kind in (
            ("down_block_types", c.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", c.up_block_types, "UpDecoderBlock2D"),
        ):
            if list(types) != [kind] * blocks:
                raise UserError(f"{where}: {key} = {list(types)} is not supported; it must be {blocks} times {kind!r}.")
        if not groups or any(n % groups for n in c.block_out_channels):
            raise UserError(
                f"{where}: norm_num_groups = {groups!r} must divide every block_out_channels ({list(c.block_out_channels)})."
            )
        latent = c.latent_channels
        self.encoder = Encoder(c, **options)
        self.decoder = Decoder(c, **options)
        self.quant_conv = Conv2d(2 * latent, 2 * latent, 1, **options) if c.use_quant_conv else None
        self.post_quant_conv = Conv2d(latent, latent, 1, **options) if c.use_post_quant_conv else None
        self.scaling_factor = float(c.scaling_factor)
        self.latent_channels = latent
        self.factor = 2 ** (blocks - 1)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the posterior's mean and log variance, each [n, h/f, w/f, latent_channels] float32.

        Args:
          images: [n, h, w, in_channels] in [-1, 1]; h and w multiples of `factor`.
        """
        mean, log_variance = jnp.split(self.moments(images), 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def moments(self, images: jax.Array) -> jax.Array:
        """Returns mean and unclipped log variance as one array, [n, h/f, w/f, 2 · latent_channels] float32."""
        moments = self.encoder(images)
        return (moments if self.quant_conv is None else self.quant_conv(moments)).astype(jnp.float32)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Returns images [n, h, w, out_channels] float32, nominally in [-1, 1], from unscaled latents."""
        z = latents if self.post_quant_conv is None else self.post_quant_conv(latents)
        return self.decoder(z).astype(jnp.float32)
