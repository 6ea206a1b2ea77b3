"""The conditional UNet of Stable Diffusion 1.x, 2.x and XL, built from a diffusers `config.json`.

Source: Rombach et al. 2022 (arXiv:2112.10752), section 3; parameter names follow diffusers' UNet2DConditionModel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models.activations import ACTIVATIONS, DIFFUSERS, checked_activation
from bridgejax.models.attention import SpatialTransformer
from bridgejax.models.building import InitFunction, initial, traced_once
from bridgejax.models.config_values import read_known
from bridgejax.models.layers import UNIFORM_FAN_IN, ZEROS, Conv2d, GroupNorm, LayerOptions, layer_norm, linear, upsample_nearest
from bridgejax.models.unfolded import Pads
from bridgejax.models.weights import Rule, torch_rules

# Which kernels of diffusers' networks are convolutions, by their path.
CONVOLUTIONS = r"(?:.+\.)?(?:conv\w*|quant_conv|post_quant_conv|proj_in|proj_out)"
# The weight tables of UNets whose spatial projections are 1×1 convolutions, or dense.
_POOL_TOKEN = Rule(r"(.+\.positional_embedding)", r"\1")
UNET_RULES = torch_rules(_POOL_TOKEN, conv=CONVOLUTIONS)
UNET_LINEAR_RULES = torch_rules(_POOL_TOKEN, conv=r"(?:.+\.)?conv\w*")
# Values that only this one setting of is supported; anything else is refused by name.
FIXED: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("center_input_sample", "only_cross_attention", "dual_cross_attention"), (False,)),
    **dict.fromkeys(("resnet_skip_time_act", "class_embeddings_concat"), (False,)),
    **dict.fromkeys(("mid_block_scale_factor", "resnet_out_scale_factor"), (1,)),
    **dict.fromkeys(("num_attention_heads", "reverse_transformer_layers_per_block", "encoder_hid_dim"), (None,)),
    **dict.fromkeys(("encoder_hid_dim_type", "class_embed_type", "num_class_embeds", "time_embedding_dim"), (None,)),
    **dict.fromkeys(("time_embedding_act_fn", "timestep_post_act", "cross_attention_norm"), (None,)),
    **dict.fromkeys(("resnet_time_scale_shift", "attention_type"), ("default",)),
    "time_embedding_type": ("positional",),
    "mid_block_only_cross_attention": (None, False),
    "dropout": (0,),
}
# Read elsewhere or without effect on the arithmetic here (attention is always normalised in float32).
IGNORED = ("sample_size", "upcast_attention")


PerBlock = int | Sequence[int]  # one number for all blocks, or one each


@dataclass(frozen=True)
class UNetConfig:
    """The keys of a UNet2DConditionModel's `config.json` that are read, with the defaults of diffusers."""

    in_channels: int = 4
    out_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: Sequence[str] = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    up_block_types: Sequence[str] = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
    block_out_channels: Sequence[int] = (320, 640, 1280, 1280)
    layers_per_block: PerBlock = 2
    downsample_padding: int = 1
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: PerBlock = 1280
    transformer_layers_per_block: PerBlock = 1
    attention_head_dim: PerBlock = 8  # the number of heads
    use_linear_projection: bool = False
    addition_embed_type: str | None = None
    addition_embed_type_num_heads: int = 64
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None
    time_cond_proj_dim: int | None = None
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3
    act_fn: str = "silu"


def unet_rules(config: JSONObject) -> tuple[Rule, ...]:
    """Returns the weight table of a UNet: its projections are dense layers or 1×1 convolutions."""
    return UNET_LINEAR_RULES if config.get("use_linear_projection") else UNET_RULES


def per_block(value: PerBlock, blocks: int, where: str) -> list[int]:
    """Returns one value per block from a number or a list of the right length; `where` is the file and the key."""
    if not isinstance(value, Sequence):
        return [value] * blocks
    if len(value) != blocks:
        raise UserError(f"{where} has {len(value)} values for {blocks} blocks; give one number or {blocks}.")
    return list(value)


def timestep_embedding(timesteps: jax.Array, width: int, flip_sin_to_cos: bool, freq_shift: float) -> jax.Array:
    """Returns sinusoids [n, width] (float32) of `timesteps` [n], periods from 2π to 20000π."""
    half = width // 2
    exponents = -math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angles = timesteps.astype(jnp.float32)[:, None] * jnp.exp(exponents)[None]
    parts = (jnp.cos(angles), jnp.sin(angles)) if flip_sin_to_cos else (jnp.sin(angles), jnp.cos(angles))
    return jnp.pad(jnp.concatenate(parts, -1), ((0, 0), (0, width % 2)))


class TimestepEmbedding(nnx.Module):
    """Two dense layers with an activation between; `cond_proj` adds a projected guidance embedding (LCM)."""

    def __init__(
        self,
        features_in: int,
        features: int,
        cond_features: int | None = None,
        activation: str = "silu",
        **options: Unpack[LayerOptions],
    ):
        self.activation = activation
        self.linear_1 = linear(features_in, features, **options)
        self.linear_2 = linear(features, features, **options)
        self.cond_proj = linear(cond_features, features_in, use_bias=False, **options) if cond_features else None

    def __call__(self, x: jax.Array, cond: jax.Array | None = None) -> jax.Array:
        if cond is not None and self.cond_proj is not None:
            x = x + self.cond_proj(cond)
        return self.linear_2(ACTIVATIONS[self.activation](self.linear_1(x)))


class ResnetBlock(nnx.Module):
    """Norm, activation, convolution twice, with the time embedding added between (ResnetBlock2D of diffusers)."""

    def __init__(
        self,
        features_in: int,
        features: int,
        time_features: int | None,
        groups: int,
        epsilon: float,
        last_init: InitFunction = UNIFORM_FAN_IN,
        activation: str = "silu",
        **options: Unpack[LayerOptions],
    ):
        self.activation = activation
        self.norm1 = GroupNorm(groups, features_in, epsilon=epsilon, **options)
        self.conv1 = Conv2d(features_in, features, **options)
        self.time_emb_proj = linear(time_features, features, **options) if time_features else None
        self.norm2 = GroupNorm(groups, features, epsilon=epsilon, **options)
        self.conv2 = Conv2d(features, features, kernel_init=last_init, **options)
        self.conv_shortcut = Conv2d(features_in, features, 1, **options) if features_in != features else None

    @traced_once
    def __call__(self, x: jax.Array, time: jax.Array | None = None) -> jax.Array:
        """Maps `x` [n, h, w, features_in] and `time` [n, time_features] to [n, h, w, features]."""
        act = ACTIVATIONS[self.activation]
        y = self.conv1(act(self.norm1(x)))
        if self.time_emb_proj is not None and time is not None:
            y = y + self.time_emb_proj(act(time))[:, None, None]
        y = self.conv2(act(self.norm2(y)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + y


class Resample(nnx.Module):
    """One convolution `conv`, after nearest-neighbour enlargement when a target size is given."""

    def __init__(self, features: int, stride: int, padding: int | Pads, **options: Unpack[LayerOptions]):
        self.conv = Conv2d(features, features, stride=stride, padding=padding, **options)

    def __call__(self, x: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        return self.conv(x if size is None else upsample_nearest(x, *size))


class Resolution(nnx.Module):
    """One resolution of the UNet: ResNet blocks, each followed by a spatial transformer if it attends."""

    def __init__(
        self,
        resnets: list[ResnetBlock],
        attentions: list[SpatialTransformer],
        downsampler: Resample | None = None,
        upsampler: Resample | None = None,
    ):
        self.resnets = nnx.List(resnets)
        self.attentions = nnx.List(attentions)
        self.downsamplers = nnx.List([downsampler] if downsampler else [])
        self.upsamplers = nnx.List([upsampler] if upsampler else [])

    def layer(self, index: int, x: jax.Array, time: jax.Array, context: jax.Array) -> jax.Array:
        x = self.resnets[index](x, time)
        return self.attentions[index](x, context) if self.attentions else x


class MidBlock(nnx.Module):
    """A ResNet block, then (transformer, ResNet block)."""

    def __init__(self, resnets: list[ResnetBlock], attentions: list[SpatialTransformer]):
        self.resnets = nnx.List(resnets)
        self.attentions = nnx.List(attentions)

    def __call__(self, x: jax.Array, time: jax.Array, context: jax.Array) -> jax.Array:
        x = self.resnets[0](x, time)
        for attention, resnet in zip(self.attentions, list(self.resnets)[1:], strict=True):
            x = resnet(attention(x, context), time)
        return x


class TextPool(nnx.Module):
    """One attention query, the mean token, over all tokens and itself (diffusers' AttentionPooling)."""

    def __init__(self, features: int, heads: int, **options: Unpack[LayerOptions]):
        shape = (1, features)
        init = initial(nnx.initializers.normal(1.0 / math.sqrt(features)), options["rngs"])
        self.positional_embedding = nnx.Param(init(options["rngs"].params(), shape, options.get("param_dtype", jnp.float32)))
        self.q_proj, self.k_proj, self.v_proj = (linear(features, features, **options) for _ in range(3))
        self.heads = heads

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns [n, features] of tokens [n, t, features]."""
        n, _, features = tokens.shape
        query = tokens.mean(1, keepdims=True) + self.positional_embedding[...].astype(tokens.dtype)
        tokens = jnp.concatenate([query, tokens], 1)
        q, k, v = (
            f(x).reshape(n, -1, self.heads, features // self.heads)
            for f, x in ((self.q_proj, query), (self.k_proj, tokens), (self.v_proj, tokens))
        )
        scores = jnp.einsum("nqhc,nkhc->nhqk", q, k, preferred_element_type=jnp.float32) / math.sqrt(features // self.heads)
        return jnp.einsum("nhqk,nkhc->nqhc", jax.nn.softmax(scores, -1).astype(v.dtype), v).reshape(n, features)


class TextTimeEmbedding(nnx.Module):
    """Adds the pooled text to the time embedding, so that every residual block sees it."""

    def __init__(self, features: int, time_features: int, heads: int, **options: Unpack[LayerOptions]):
        self.norm1 = layer_norm(features, **options)
        self.pool = TextPool(features, heads, **options)
        self.proj = linear(features, time_features, **options)
        self.norm2 = layer_norm(time_features, **options)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns [n, time_features] of text embeddings [n, t, features]."""
        return self.norm2(self.proj(self.pool(self.norm1(tokens))))


class UNet2DCondition(nnx.Module):
    """Predicts noise, velocity or sample from noisy latents, a timestep and text embeddings."""

    def __init__(self, config: JSONObject, *, where: str = "UNet config", **options: Unpack[LayerOptions]):
        """Builds the network of a diffusers `config.json` (UNet2DConditionModel).

        Raises:
          UserError: the config asks for something that is not supported; the file (`where`) and the key are named.
        """
        c = read_known(UNetConfig, config, FIXED, IGNORED, where)
        checked_activation(c.act_fn, f"{where}: act_fn", DIFFUSERS)
        channels = [int(n) for n in c.block_out_channels]
        blocks = len(channels)
        groups, epsilon = c.norm_num_groups, c.norm_eps
        for key, types, kinds in (
            ("down_block_types", c.down_block_types, ("DownBlock2D", "CrossAttnDownBlock2D")),
            ("up_block_types", c.up_block_types, ("UpBlock2D", "CrossAttnUpBlock2D")),
        ):
            if len(types) != blocks:
                raise UserError(f"{where}: {key} has {len(types)} entries for {blocks} block_out_channels.")
            for kind in types:
                if kind not in kinds:
                    raise UserError(
                        f"{where}: {key} holds {kind!r}, which is not supported; it must be one of {', '.join(kinds)}."
                    )
        if not groups or any(n % groups for n in channels):
            raise UserError(f"{where}: norm_num_groups = {groups!r} must divide every block_out_channels ({channels}).")
        heads = per_block(c.attention_head_dim, blocks, f"{where}: attention_head_dim")
        layers = per_block(c.layers_per_block, blocks, f"{where}: layers_per_block")
        depth = per_block(c.transformer_layers_per_block, blocks, f"{where}: transformer_layers_per_block")
        context = per_block(c.cross_attention_dim, blocks, f"{where}: cross_attention_dim")
        time_features = 4 * channels[0]

        def resnet(features_in: int, features: int) -> ResnetBlock:
            return ResnetBlock(features_in, features, time_features, groups, epsilon, ZEROS, c.act_fn, **options)

        def transformer(block: int) -> SpatialTransformer:
            if channels[block] % heads[block]:
                raise UserError(
                    f"{where}: attention_head_dim = {heads[block]} (the number of heads) "
                    f"must divide the {channels[block]} channels of its block."
                )
            return SpatialTransformer(
                channels[block], heads[block], context[block], depth[block], groups, c.use_linear_projection, **options
            )

        self.conv_in = Conv2d(c.in_channels, channels[0], c.conv_in_kernel, **options)
        self.time_embedding = TimestepEmbedding(channels[0], time_features, c.time_cond_proj_dim, c.act_fn, **options)
        self.addition = c.addition_embed_type
        added: TimestepEmbedding | TextTimeEmbedding | None = None
        if self.addition == "text_time":
            added = TimestepEmbedding(c.projection_class_embeddings_input_dim or 0, time_features, **options)
        elif self.addition == "text":
            if not (pool_heads := c.addition_embed_type_num_heads) or context[0] % pool_heads:
                raise UserError(
                    f"{where}: addition_embed_type_num_heads = {pool_heads!r} must divide cross_attention_dim = {context[0]}."
                )
            added = TextTimeEmbedding(context[0], time_features, pool_heads, **options)
        elif self.addition is not None:
            raise UserError(
                f"{where}: addition_embed_type = {self.addition!r} is not supported; it must be None, 'text' or 'text_time'."
            )
        self.add_embedding = added

        down = []
        for i, kind in enumerate(c.down_block_types):
            entering = [channels[max(i - 1, 0)]] + [channels[i]] * (layers[i] - 1)
            down.append(
                Resolution(
                    [resnet(n, channels[i]) for n in entering],
                    [transformer(i) for _ in entering] if kind == "CrossAttnDownBlock2D" else [],
                    downsampler=Resample(channels[i], 2, c.downsample_padding, **options) if i < blocks - 1 else None,
                )
            )
        self.down_blocks = nnx.List(down)

        last = channels[-1]
        if c.mid_block_type not in (None, "UNetMidBlock2DCrossAttn"):
            raise UserError(
                f"{where}: mid_block_type = {c.mid_block_type!r} is not "
                "supported; it must be 'UNetMidBlock2DCrossAttn' or None."
            )
        middle = c.mid_block_type is not None
        self.mid_block = MidBlock([resnet(last, last), resnet(last, last)], [transformer(blocks - 1)]) if middle else None

        up = []
        for i, kind in enumerate(c.up_block_types):
            block = blocks - 1 - i
            below, count = channels[min(block + 1, blocks - 1)], layers[block] + 1
            skips = [channels[block]] * (count - 1) + [channels[max(block - 1, 0)]]
            inputs = [below] + [channels[block]] * (count - 1)
            up.append(
                Resolution(
                    [resnet(a + b, channels[block]) for a, b in zip(inputs, skips, strict=True)],
                    [transformer(block) for _ in skips] if kind == "CrossAttnUpBlock2D" else [],
                    upsampler=Resample(channels[block], 1, 1, **options) if i < blocks - 1 else None,
                )
            )
        self.up_blocks = nnx.List(up)
        self.conv_norm_out = GroupNorm(groups, channels[0], epsilon=epsilon, **options)
        self.conv_out = Conv2d(channels[0], c.out_channels, c.conv_out_kernel, kernel_init=ZEROS, **options)
        self.time_channels = channels[0]
        self.flip_sin_to_cos, self.freq_shift = bool(c.flip_sin_to_cos), c.freq_shift
        self.addition_time_width = c.addition_time_embed_dim or 0
        self.activation = c.act_fn
        self.dtype = options.get("dtype", jnp.float32)

    def __call__(
        self,
        latents: jax.Array,
        timesteps: jax.Array,
        context: jax.Array,
        *,
        pooled: jax.Array | None = None,
        time_ids: jax.Array | None = None,
        timestep_cond: jax.Array | None = None,
    ) -> jax.Array:
        """Predicts, in float32: [n, h, w, out_channels].

        Args:
          latents: [n, h, w, in_channels], as scaled by the scheduler.
          timesteps: [n] or a scalar, in training timesteps.
          context: [n, tokens, cross_attention_dim] text embeddings.
          pooled: [n, p] pooled text embedding (SDXL only).
          time_ids: [n, 6] original size, crop corner, target size in pixels (SDXL only).
          timestep_cond: [n, time_cond_proj_dim] guidance embedding (LCM only).
        """
        batch = latents.shape[0]
        steps = jnp.broadcast_to(jnp.asarray(timesteps), (batch,))
        sinusoids = timestep_embedding(steps, self.time_channels, self.flip_sin_to_cos, self.freq_shift)
        time = self.time_embedding(sinusoids.astype(self.dtype), timestep_cond)
        context = context.astype(self.dtype)
        if isinstance(self.add_embedding, TextTimeEmbedding):
            time = time + self.add_embedding(context)
        elif self.add_embedding is not None:
            if pooled is None or time_ids is None:
                raise UserError(
                    "this UNet (SDXL) also needs the pooled text embedding and the image size; pass pooled, height and width."
                )
            sizes = timestep_embedding(time_ids.reshape(-1), self.addition_time_width, self.flip_sin_to_cos, self.freq_shift)
            extra = jnp.concatenate([pooled.astype(jnp.float32), sizes.reshape(batch, -1)], -1)
            time = time + self.add_embedding(extra.astype(self.dtype))

        x = self.conv_in(latents)
        skips = [x]
        for block in self.down_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, x, time, context)
                skips.append(x)
            if block.downsamplers:
                x = block.downsamplers[0](x)
                skips.append(x)
        if self.mid_block is not None:
            x = self.mid_block(x, time, context)
        for block in self.up_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, jnp.concatenate([x, skips.pop()], -1), time, context)
            if block.upsamplers:
                x = block.upsamplers[0](x, size=(skips[-1].shape[1], skips[-1].shape[2]))
        return self.conv_out(ACTIVATIONS[self.activation](self.conv_norm_out(x))).astype(jnp.float32)
