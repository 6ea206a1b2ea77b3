"""EfficientNet-Lite0 (Tan and Le, arXiv:1905.11946; the Lite variant of tensorflow/tpu: no squeeze-and-excitation, ReLU6).

The layout and the names follow the PyTorch port `efficientnet-lite-pytorch`, whose published weights load here. Two of its
regularisers are left out, dropout before the head and stochastic depth: a fine-tuning run here is a function of its data
order alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.models.activations import relu6
from bridgejax.models.batch_norm import BatchNorm
from bridgejax.models.classifier import Classifier, Preprocessing, normalised
from bridgejax.models.depthwise import DepthwiseConv2d
from bridgejax.models.initializers import NORM_INITIALIZERS, Initializer, he_depthwise, he_fan_out
from bridgejax.models.layers import HE_FAN_OUT, Conv2d
from bridgejax.models.weights import Rule, layer_rules

# As the original: TensorFlow's momentum 0.99 is PyTorch's 0.01.
BATCH_NORM_MOMENTUM = 0.99
BATCH_NORM_EPSILON = 1e-3
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


@dataclass(frozen=True)
class BlockRow:
    """A row of the architecture: `repeats` blocks, the first of which has the stride and changes the channels."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


LITE0 = (
    BlockRow(1, 3, 1, 1, 16),
    BlockRow(2, 3, 2, 6, 24),
    BlockRow(2, 5, 2, 6, 40),
    BlockRow(3, 3, 2, 6, 80),
    BlockRow(3, 5, 1, 6, 112),
    BlockRow(4, 5, 2, 6, 192),
    BlockRow(1, 3, 1, 6, 320),
)
# The published weights take (x - 127) / 128 for x in 0..255.
LITE0_PREPROCESSING = Preprocessing(size=224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, crop=0.875)

# Our paths differ from the published names by a leading underscore per module, and by PyTorch's words.
EFFICIENTNET_LITE_RULES = (
    *layer_rules("head", "_fc"),
    Rule(r"blocks\.(\d+)\.(\w+)\.kernel", r"_blocks.\1._\2.weight", "conv"),
    Rule(r"(\w+)\.kernel", r"_\1.weight", "conv"),
    *layer_rules(r"blocks\.(\d+)\.(bn\d)", r"_blocks.\1._\2", "none"),
    Rule(r"blocks\.(\d+)\.(bn\d)\.(mean|var)", r"_blocks.\1._\2.running_\3"),
    *layer_rules(r"(bn\d)", r"_\1", "none"),
    Rule(r"(bn\d)\.(mean|var)", r"_\1.running_\2"),
)


# The convolution and the normalisation that all layers here are made of, depthwise ones aside.
_conv = partial(Conv2d, padding="SAME", use_bias=False, kernel_init=HE_FAN_OUT, dtype=None)
_batch_norm = partial(BatchNorm, use_running_average=True, momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON)


class InvertedResidual(nnx.Module):
    """Expand (1×1), depthwise (k×k), project (1×1), each batch-normalised; the input is added where shapes allow.

    Args:
      in_channels, out_channels: of the block's input and output.
      kernel, stride: of the depthwise convolution.
      expand: the inner width over `in_channels`; 1 leaves the first convolution out.
      rngs: source of the initial values.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expand: int, *, rngs: nnx.Rngs) -> None:
        inner = in_channels * expand
        self.residual = stride == 1 and in_channels == out_channels
        self.expand_conv = _conv(in_channels, inner, 1, rngs=rngs) if expand != 1 else None
        self.bn0 = _batch_norm(inner, rngs=rngs) if expand != 1 else None
        self.depthwise_conv = DepthwiseConv2d(inner, kernel, stride, rngs=rngs)
        self.bn1 = _batch_norm(inner, rngs=rngs)
        self.project_conv = _conv(inner, out_channels, 1, rngs=rngs)
        self.bn2 = _batch_norm(out_channels, rngs=rngs)

    @property
    def branches(self) -> tuple[str, ...]:
        """What stochastic depth may skip: the residual, as its last layer leaves it."""
        return ("bn2",) if self.residual else ()

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, h, w, in_channels] to [n, ⌈h / stride⌉, ⌈w / stride⌉, out_channels]."""
        y = x
        if self.expand_conv is not None and self.bn0 is not None:
            y = relu6(self.bn0(self.expand_conv(y)))
        y = relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite(Classifier):
    """EfficientNet-Lite0 with a linear head.

    `train()` normalises with the batch's statistics and moves the running ones; `eval()`, the state after building, uses
    the running ones, also while gradients are taken ("frozen" batch normalisation).

    """

    architecture = "efficientnet_lite0"
    after_blocks: ClassVar[tuple[str, ...]] = ("conv_head", "bn1")

    def __init__(self, num_classes: int = 1000, preprocessing: Preprocessing = LITE0_PREPROCESSING, *, rngs: nnx.Rngs) -> None:
        self.num_classes = num_classes
        self.preprocessing = preprocessing
        self.conv_stem = _conv(3, STEM_CHANNELS, stride=2, rngs=rngs)
        self.bn0 = _batch_norm(STEM_CHANNELS, rngs=rngs)
        blocks, channels = [], STEM_CHANNELS
        for row in LITE0:
            for repeat in range(row.repeats):
                stride = 1 if repeat else row.stride
                blocks.append(InvertedResidual(channels, row.channels, row.kernel, stride, row.expand, rngs=rngs))
                channels = row.channels
        self.blocks = nnx.List(blocks)
        self.conv_head = _conv(channels, HEAD_CHANNELS, 1, rngs=rngs)
        self.bn1 = _batch_norm(HEAD_CHANNELS, rngs=rngs)
        self.head = nnx.Linear(HEAD_CHANNELS, num_classes, rngs=rngs)

    def stem(self, images: jax.Array) -> jax.Array:
        """Returns what the first block takes, [n, ⌈h / 2⌉, ⌈w / 2⌉, 32], of images as `features` takes them."""
        return relu6(self.bn0(self.conv_stem(normalised(images))))

    def features(self, images: jax.Array) -> jax.Array:
        """Returns the pooled features, float32 [n, 1280] in [0, 6], of normalised images, float [n, h, w, 3]."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        x = relu6(self.bn1(self.conv_head(x)))
        return jnp.mean(x, (1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))

    def initializers(self) -> Sequence[Initializer]:
        """Returns the initial values of Google's EfficientNet: normal by fan-out, depthwise by its single channel."""
        return (Initializer(r"depthwise_conv\.kernel", he_depthwise), Initializer("kernel", he_fan_out), *NORM_INITIALIZERS)
