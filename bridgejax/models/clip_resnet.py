"""The modified ResNets of CLIP (RN50, RN101, …) in the layout that OpenAI and OpenCLIP share.

Radford et al. 2021 (arXiv:2103.00020), section 2.3: a stem of three convolutions, strides as average pooling in front of
convolutions (anti-aliased, Zhang 2019), and attention pooling, whose query is the mean of the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.classifier import Classifier, Preprocessing, normalised
from bridgejax.models.clip import TextTower, ZeroShot
from bridgejax.models.clip_text import SelfAttention
from bridgejax.models.convolution import widened
from bridgejax.models.initializers import NORM_INITIALIZERS, Initializer, he_fan_out, normal
from bridgejax.models.layout import Layout
from bridgejax.models.positions import resample
from bridgejax.models.resnet import batch_norm, conv, norm_rules
from bridgejax.models.weights import Rule, layer_rules

_EXPANSION, _REDUCTION = 4, 32  # a block's output over its inner width; pixels of an image over those of the last stage


@dataclass(frozen=True)
class ModifiedResNetConfig:
    """What a modified ResNet is made of."""

    image_size: int  # side in pixels that the positions of the attention pool are made for
    depths: tuple[int, ...]  # blocks per stage
    width: int  # channels of the stem; stage s gives width · 2^(s + 2)
    heads: int  # of the attention pool
    projection: int  # width of the embedding

    @property
    def channels(self) -> int:
        """What the last stage gives."""
        return self.width * _EXPANSION * 2 ** (len(self.depths) - 1)


def average_pool(x: jax.Array, size: int) -> jax.Array:
    """Returns the means of squares of `x` [n, h, w, c]: [n, ⌊h / size⌋, ⌊w / size⌋, c]."""
    n, rows, columns, channels = x.shape[0], x.shape[1] // size, x.shape[2] // size, x.shape[3]
    return x[:, : rows * size, : columns * size].reshape(n, rows, size, columns, size, channels).mean((2, 4))


class AntialiasedBlock(nnx.Module):
    """1×1, 3×3, average pooling, 1×1; batch-normalised, and added to the (pooled and projected) input."""

    branches: ClassVar[tuple[str, ...]] = ("bn3",)  # what stochastic depth may skip: the residual, as its last layer leaves it

    def __init__(self, channels_in: int, inner: int, stride: int, *, rngs: nnx.Rngs) -> None:
        channels_out = inner * _EXPANSION
        self.conv1, self.bn1 = conv(channels_in, inner, 1, 1, rngs), batch_norm(inner, rngs)
        self.conv2, self.bn2 = conv(inner, inner, 3, 1, rngs), batch_norm(inner, rngs)
        self.conv3, self.bn3 = conv(inner, channels_out, 1, 1, rngs), batch_norm(channels_out, rngs)
        projects = stride != 1 or channels_in != channels_out
        self.shortcut = conv(channels_in, channels_out, 1, 1, rngs) if projects else None
        self.shortcut_bn = batch_norm(channels_out, rngs) if projects else None
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, h, w, channels_in] to [n, ⌊h / stride⌋, ⌊w / stride⌋, 4 · inner]."""
        y = jax.nn.relu(self.bn2(self.conv2(jax.nn.relu(self.bn1(self.conv1(x))))))
        if self.stride != 1:
            x, y = average_pool(x, self.stride), average_pool(y, self.stride)
        if self.shortcut is not None and self.shortcut_bn is not None:
            x = self.shortcut_bn(self.shortcut(x))
        return jax.nn.relu(x + self.bn3(self.conv3(y)))


class PixelPool(nnx.Module):
    """Attention of the mean of all pixels over it and them."""

    def __init__(self, config: ModifiedResNetConfig, *, rngs: nnx.Rngs) -> None:
        side, width = config.image_size // _REDUCTION, config.channels
        self.positions = nnx.Param(jnp.zeros((1 + side * side, width), jnp.float32))
        self.attention = SelfAttention(width, config.heads, config.projection, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, h, w, channels] to [n, projection]; the positions of another image size are resampled."""
        n, rows, columns, channels = x.shape
        pixels = x.reshape(n, rows * columns, channels)
        tokens = jnp.concatenate([pixels.mean(1, keepdims=True), pixels], axis=1)
        tokens = tokens + resample(self.positions[...][None], 1, (rows, columns), antialias=True)
        return self.attention(tokens, query=tokens[:, :1])[:, 0]


class ModifiedResNet(Classifier):
    """The image tower with a linear head on its embedding (the attention pool's output, not normalised)."""

    architecture = "clip resnet"
    after_blocks = ("pool",)

    def __init__(self, config: ModifiedResNetConfig, num_classes: int, preprocessing: Preprocessing, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.num_classes = num_classes
        self.preprocessing = preprocessing
        half = config.width // 2
        self.conv1, self.bn1 = conv(3, half, 3, 2, rngs), batch_norm(half, rngs)
        self.conv2, self.bn2 = conv(half, half, 3, 1, rngs), batch_norm(half, rngs)
        self.conv3, self.bn3 = conv(half, config.width, 3, 1, rngs), batch_norm(config.width, rngs)
        blocks, channels = [], config.width
        for stage, depth in enumerate(config.depths):
            inner = config.width * 2**stage
            for number in range(depth):
                blocks.append(AntialiasedBlock(channels, inner, 2 if stage and not number else 1, rngs=rngs))
                channels = inner * _EXPANSION
        self.blocks = nnx.List(blocks)
        self.pool = PixelPool(config, rngs=rngs)
        self.head = nnx.Linear(config.projection, num_classes, rngs=rngs)

    def features(self, images: jax.Array) -> jax.Array:
        """Returns the embeddings, float32 [n, projection], of normalised images, float [n, h, w, 3].

        Raises:
          UserError: the images are smaller than one pixel of the last stage.
        """
        x = normalised(images)
        if min(x.shape[1:3]) < _REDUCTION:
            raise UserError(f"images of {x.shape[1]} × {x.shape[2]} pixels are below {_REDUCTION}, a CLIP ResNet's smallest.")
        for layer, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = jax.nn.relu(norm(layer(x)))
        x = average_pool(x, 2)
        for block in self.blocks:
            x = block(x)
        return widened(self.pool(x))

    def initializers(self) -> Sequence[Initializer]:
        """Returns normal values by fan-out for convolutions and by width for the attention pool."""
        wide = normal(self.config.channels**-0.5)
        return (
            Initializer(r"\w+_proj\.kernel", wide),
            Initializer("positions", wide),
            Initializer("kernel", he_fan_out),
            *NORM_INITIALIZERS,
        )


class CLIPResNet(ZeroShot, ModifiedResNet):
    """A modified ResNet and a head of text embeddings."""

    def __init__(self, config: ModifiedResNetConfig, num_classes: int, preprocessing: Preprocessing, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, num_classes, preprocessing, rngs=rngs)
        self.templates: tuple[str, ...] = ()
        self.texts: TextTower | None = None

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Returns the embeddings of normalised images [n, h, w, 3], float32 [n, projection], not normalised."""
        return ModifiedResNet.features(self, images)


def clip_resnet_layout(config: ModifiedResNetConfig) -> Layout:
    """Returns the names of the tensors of the image side."""
    rules = [*layer_rules("head", "classifier")]
    pairs = [(f"{part}{number}", f"visual.{part}{number}") for part in ("conv", "bn") for number in (1, 2, 3)]
    places = [(stage, number) for stage, depth in enumerate(config.depths) for number in range(depth)]
    for index, (stage, number) in enumerate(places):
        ours, theirs = rf"blocks\.{index}\.", f"visual.layer{stage + 1}.{number}."
        pairs += [(f"{ours}{part}{n}", f"{theirs}{part}{n}") for part in ("conv", "bn") for n in (1, 2, 3)]
        pairs += [(f"{ours}shortcut", f"{theirs}downsample.0"), (f"{ours}shortcut_bn", f"{theirs}downsample.1")]
    for mine, name in pairs:
        rules += [Rule(rf"{mine}\.kernel", f"{name}.weight", "conv"), *norm_rules(mine, name)]
    pool = "visual.attnpool."
    rules.append(Rule(r"pool\.positions", f"{pool}positional_embedding"))
    for letter, name in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "c_proj")):
        rules += layer_rules(rf"pool\.attention\.{letter}_proj", f"{pool}{name}")
    return Layout(tuple(rules))
