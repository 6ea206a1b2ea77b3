"""Stable Diffusion 1.x's UNet in PyTorch, for machines without diffusers: its structure and its parameters' names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def timestep_features(timestep: Tensor, width: int) -> Tensor:
    """Returns sinusoids [n, width] of time steps [n], cosines first."""
    half = width // 2
    rates = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=timestep.device))
    angles = timestep[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


class Resnet(nn.Module):
    """Two convolutions with the time between them, and a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, time: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, 1e-5)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, channels_out)
        self.norm2 = nn.GroupNorm(groups, channels_out, 1e-5)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
        y = self.conv2(F.silu(self.norm2(y)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + y


class Attention(nn.Module):
    """Multi-head attention by `scaled_dot_product_attention`."""

    def __init__(self, width: int, context: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, y in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GatedGelu(nn.Module):
    """One half of a product times the GELU of the other."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """The gated GELU and a product back."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.ModuleList([GatedGelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    """Attention to the image, to the text, and the feed-forward layers."""

    def __init__(self, width: int, context: int, heads: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1, self.attn2 = Attention(width, width, heads), Attention(width, context, heads)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer block on the positions of an image."""

    def __init__(self, width: int, context: int, heads: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, 1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context, heads)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.proj_in(self.norm(x))
        shape = y.shape[2:]
        y = self.transformer_blocks[0](y.flatten(2).transpose(1, 2), context)
        return x + self.proj_out(y.transpose(1, 2).unflatten(2, shape))


class Resampler(nn.Module):
    """A convolution that halves the sides, or that follows their doubling."""

    def __init__(self, channels: int, up: bool):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else x)


class Level(nn.Module):
    """The blocks of one resolution."""

    def __init__(self, resnets: list[nn.Module], attentions: list[nn.Module], resampler: Resampler | None):
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions) if attentions else None
        name = "upsamplers" if resampler is not None and resampler.up else "downsamplers"
        self.resampler_name = name if resampler is not None else ""
        if resampler is not None:
            self.add_module(name, nn.ModuleList([resampler]))

    def block(self, number: int, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Returns what a residual block, and the transformer after it, make of `x`."""
        x = self.resnets[number](x, time)
        return x if self.attentions is None else self.attentions[number](x, context)

    def resampled(self, x: Tensor) -> Tensor:
        """Returns `x` at the next resolution."""
        return getattr(self, self.resampler_name)[0](x)


class UNet(nn.Module):
    """The UNet of a diffusers config with one transformer layer per block and as many heads everywhere (SD 1.x)."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        widths, layers = config["block_out_channels"], config["layers_per_block"]
        groups, heads = config.get("norm_num_groups", 32), config["attention_head_dim"]
        context, time = config["cross_attention_dim"], 4 * widths[0]
        self.width = widths[0]
        self.conv_in = nn.Conv2d(4, widths[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict({"linear_1": nn.Linear(self.width, time), "linear_2": nn.Linear(time, time)})

        def resnet(channels_in: int, channels_out: int) -> Resnet:
            return Resnet(channels_in, channels_out, time, groups)

        def transformers(width: int, count: int, kind: str) -> list[nn.Module]:
            return [SpatialTransformer(width, context, heads, groups) for _ in range(count)] if "CrossAttn" in kind else []

        skips, before, downs = [widths[0]], widths[0], []
        for number, (width, kind) in enumerate(zip(widths, config["down_block_types"], strict=True)):
            blocks = [resnet(before if layer == 0 else width, width) for layer in range(layers)]
            last = number == len(widths) - 1
            downs.append(Level(blocks, transformers(width, layers, kind), None if last else Resampler(width, up=False)))
            skips += [width] * (layers if last else layers + 1)
            before = width
        self.down_blocks = nn.ModuleList(downs)
        self.mid_block = Level([resnet(before, before) for _ in range(2)], transformers(before, 1, "CrossAttn"), None)
        ups = []
        for number, (width, kind) in enumerate(zip(reversed(widths), config["up_block_types"], strict=True)):
            blocks = [resnet((before if layer == 0 else width) + skips.pop(), width) for layer in range(layers + 1)]
            last = number == len(widths) - 1
            ups.append(Level(blocks, transformers(width, layers + 1, kind), None if last else Resampler(width, up=True)))
            before = width
        self.up_blocks = nn.ModuleList(ups)
        self.conv_norm_out = nn.GroupNorm(groups, before, 1e-5)
        self.conv_out = nn.Conv2d(before, 4, 3, padding=1)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """Returns the output [n, 4, h, w] for latents [n, 4, h, w], time steps [n] and text [n, tokens, context]."""
        time = self.time_embedding["linear_1"](timestep_features(timestep, self.width).to(x.dtype))
        time = self.time_embedding["linear_2"](F.silu(time))
        x = self.conv_in(x)
        skips = [x]
        for level in self.down_blocks:
            for number in range(len(level.resnets)):
                x = level.block(number, x, time, context)
                skips.append(x)
            if level.resampler_name:
                x = level.resampled(x)
                skips.append(x)
        x = self.mid_block.block(0, x, time, context)
        x = self.mid_block.resnets[1](x, time)
        for level in self.up_blocks:
            for number in range(len(level.resnets)):
                x = level.block(number, torch.cat([x, skips.pop()], 1), time, context)
            if level.resampler_name:
                x = level.resampled(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))
