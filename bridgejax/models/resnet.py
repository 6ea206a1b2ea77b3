"""ResNet-18 to 152 (He et al. 2015, arXiv:1512.03385), in timm's and transformers' published layouts.

The stride of a bottleneck lies in its 3×3 convolution ("v1.5", as in timm and torch), unless a transformers config says
otherwise (`downsample_in_bottleneck`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models.activations import ACTIVATIONS, checked_activation
from bridgejax.models.batch_norm import BatchNorm
from bridgejax.models.classifier import Classifier, Preprocessing, normalised
from bridgejax.models.config_values import positive_int, require
from bridgejax.models.initializers import NORM_INITIALIZERS, Initializer, he_fan_out
from bridgejax.models.layers import HE_FAN_OUT, Conv2d
from bridgejax.models.layout import Layout, timm_arguments
from bridgejax.models.weights import Rule, layer_rules

# torch's BatchNorm2d: momentum 0.1 there is 0.9 here.
BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5
# timm's names: blocks per stage, and whether they are bottlenecks.
TIMM_RESNETS: dict[str, tuple[tuple[int, ...], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}


@dataclass(frozen=True)
class ResNetConfig:
    """What a ResNet is made of."""

    layout: str  # "timm" or "transformers", in which it was published and is saved
    name: str  # timm's architecture, or "resnet"
    depths: tuple[int, ...]  # blocks per stage
    widths: tuple[int, ...]  # channels that each stage gives
    stem: int  # channels of the first convolution
    bottleneck: bool  # blocks of three convolutions, the inner ones a quarter as wide, instead of two
    first_stride: int = 1  # of the first stage
    early_stride: bool = False  # a bottleneck's stride lies in its first convolution instead of the second
    # Of the stem and behind each block, a key of `bridgejax.models.activations.ACTIVATIONS`; within blocks it is always ReLU,
    # as in transformers.
    activation: str = "relu"

    @property
    def places(self) -> list[tuple[int, int]]:
        """The stage and the number within the stage of every block, in order."""
        return [(stage, number) for stage, depth in enumerate(self.depths) for number in range(depth)]


def batch_norm(channels: int, rngs: nnx.Rngs) -> BatchNorm:
    """Returns torch's batch normalisation."""
    return BatchNorm(channels, use_running_average=True, momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON, rngs=rngs)


def conv(channels_in: int, channels_out: int, kernel: int, stride: int, rngs: nnx.Rngs) -> Conv2d:
    """Returns a convolution without bias that keeps the size at stride 1."""
    return Conv2d(
        channels_in, channels_out, kernel, stride=stride, use_bias=False, kernel_init=HE_FAN_OUT, dtype=None, rngs=rngs
    )


def max_pool(x: jax.Array) -> jax.Array:
    """Returns the 3×3 maximum at stride 2 of `x` [n, h, w, c], padded by one pixel on every side; NaN stays NaN.

    Rows first, then columns, as choices between slices: the same values as a windowed reduction, whose derivative is slow on a
    CPU. Of equal values one takes the whole gradient, as in torch.
    """
    low = jnp.asarray(-jnp.inf, x.dtype)
    for axis in (1, 2):
        pads = [(0, 0, 0)] * 4
        pads[axis] = (1, 1, 0)
        padded = jax.lax.pad(x, low, pads)
        size = (x.shape[axis] - 1) // 2 + 1
        taps = [jax.lax.slice_in_dim(padded, tap, tap + 2 * size - 1, stride=2, axis=axis) for tap in range(3)]
        x = _larger(_larger(taps[0], taps[1]), taps[2])
    return x


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


class ResidualBlock(nnx.Module):
    """Two 3×3 convolutions, or 1×1, 3×3, 1×1, as the config says; batch-normalised, and added to the (projected) input."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, config: ResNetConfig, *, rngs: nnx.Rngs) -> None:
        self.activation = config.activation
        if config.bottleneck:
            inner = channels_out // 4
            first, second = (stride, 1) if config.early_stride else (1, stride)
            self.conv1, self.bn1 = conv(channels_in, inner, 1, first, rngs), batch_norm(inner, rngs)
            self.conv2, self.bn2 = conv(inner, inner, 3, second, rngs), batch_norm(inner, rngs)
        else:
            self.conv1, self.bn1 = conv(channels_in, channels_out, 3, stride, rngs), batch_norm(channels_out, rngs)
            self.conv2, self.bn2 = conv(channels_out, channels_out, 3, 1, rngs), batch_norm(channels_out, rngs)
        self.conv3 = conv(channels_out // 4, channels_out, 1, 1, rngs) if config.bottleneck else None
        self.bn3 = batch_norm(channels_out, rngs) if config.bottleneck else None
        projects = stride != 1 or channels_in != channels_out
        self.shortcut = conv(channels_in, channels_out, 1, stride, rngs) if projects else None
        self.shortcut_bn = batch_norm(channels_out, rngs) if projects else None

    @property
    def branches(self) -> tuple[str, ...]:
        """What stochastic depth may skip: the residual, as its last layer leaves it."""
        return ("bn2",) if self.bn3 is None else ("bn3",)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, h, w, channels_in] to [n, ⌈h / stride⌉, ⌈w / stride⌉, channels_out]."""
        y = self.bn2(self.conv2(jax.nn.relu(self.bn1(self.conv1(x)))))
        if self.conv3 is not None and self.bn3 is not None:
            y = self.bn3(self.conv3(jax.nn.relu(y)))
        if self.shortcut is not None and self.shortcut_bn is not None:
            x = self.shortcut_bn(self.shortcut(x))
        return ACTIVATIONS[self.activation](x + y)


class ResNet(Classifier):
    """A residual network with a linear head.

    `train()` normalises with the batch's statistics and moves the running ones (which take the biased variance); `eval()`,
    the state after building, uses the running ones, also while gradients are taken.
    """

    architecture = "resnet"

    def __init__(self, config: ResNetConfig, num_classes: int, preprocessing: Preprocessing, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.num_classes = num_classes
        self.preprocessing = preprocessing
        self.conv1, self.bn1 = conv(3, config.stem, 7, 2, rngs), batch_norm(config.stem, rngs)
        blocks, channels = [], config.stem
        for stage, number in config.places:
            stride = 1 if number else config.first_stride if stage == 0 else 2
            blocks.append(ResidualBlock(channels, config.widths[stage], stride, config, rngs=rngs))
            channels = config.widths[stage]
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(channels, num_classes, rngs=rngs)

    def stem(self, images: jax.Array) -> jax.Array:
        """Returns what the first block takes, [n, ⌈h / 4⌉, ⌈w / 4⌉, config.stem], of images as `features` takes them."""
        return max_pool(ACTIVATIONS[self.config.activation](self.bn1(self.conv1(normalised(images)))))

    def features(self, images: jax.Array) -> jax.Array:
        """Returns the pooled features, float32 [n, widths[-1]], of normalised images, float [n, h, w, 3]."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return jnp.mean(x, (1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))

    def initializers(self) -> Sequence[Initializer]:
        """Returns He et al.'s normal by fan-out and plain batch norms, as torch and transformers start theirs.

        timm also sets the last scale of each block to zero, which would make reset blocks the identity; not so here.
        """
        return (Initializer("kernel", he_fan_out), *NORM_INITIALIZERS)


def timm_config(name: str, config: JSONObject, where: str) -> ResNetConfig:
    """Returns the network of a timm `config.json` whose architecture is in `TIMM_RESNETS`.

    Raises:
      UserError: an option is not supported; it is named.
    """
    depths, bottleneck = TIMM_RESNETS[name]
    arguments = timm_arguments(config, where, ("layers", "channels"), {"global_pool": "avg"})
    depths = _numbers(arguments.get("layers", depths), f"{where}: model_args.layers")
    channels = _numbers(arguments.get("channels", (64, 128, 256, 512)), f"{where}: model_args.channels")
    require(config, where, {"global_pool": "avg"})
    if len(depths) != len(channels):
        raise UserError(f"{where}: model_args.layers and model_args.channels must be equally long; correct the file.")
    widths = tuple(4 * width for width in channels) if bottleneck else channels
    return ResNetConfig("timm", name, depths, widths, 64, bottleneck)


def transformers_config(config: JSONObject, where: str) -> ResNetConfig:
    """Returns the network of a transformers `config.json` with model_type resnet.

    Raises:
      UserError: a value is missing, wrong or not supported; it is named.
    """
    depths = _numbers(config.get("depths", (3, 4, 6, 3)), f"{where}: depths")
    widths = _numbers(config.get("hidden_sizes", (256, 512, 1024, 2048)), f"{where}: hidden_sizes")
    kind = config.get("layer_type", "bottleneck")
    if kind not in ("basic", "bottleneck"):
        raise UserError(f"{where}: layer_type is {kind!r}; expected 'basic' or 'bottleneck', get the published config.json.")
    if len(depths) != len(widths):
        raise UserError(f"{where}: depths and hidden_sizes must be equally long; correct the file.")
    require(config, where, {"num_channels": 3})
    hidden_act = checked_activation(config.get("hidden_act", "relu"), f"{where}: hidden_act")
    return ResNetConfig(
        "transformers",
        "resnet",
        depths,
        widths,
        positive_int(config, "embedding_size", where, 64),
        kind == "bottleneck",
        2 if config.get("downsample_in_first_stage") else 1,
        bool(config.get("downsample_in_bottleneck")),
        hidden_act,
    )


def _numbers(values: object, where: str) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)) or not values or any(not isinstance(v, int) or v < 1 for v in values):
        raise UserError(f"{where} is {values!r}; expected a list of positive whole numbers, get the published config.json.")
    return tuple(values)


def config_file(config: ResNetConfig) -> JSONObject:
    """Returns what `config.json` says of the network (without classes and preprocessing), in its layout."""
    if config.layout == "timm":
        channels = tuple(width // 4 for width in config.widths) if config.bottleneck else config.widths
        usual = replace(timm_config(config.name, {}, ""), layout=config.layout)
        changed = {"layers": list(config.depths), "channels": list(channels)}
        arguments = {} if (usual.depths, usual.widths) == (config.depths, config.widths) else {"model_args": changed}
        return {"architecture": config.name, "num_features": config.widths[-1], "global_pool": "avg", **arguments}
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "depths": list(config.depths),
        "hidden_sizes": list(config.widths),
        "embedding_size": config.stem,
        "layer_type": "bottleneck" if config.bottleneck else "basic",
        "hidden_act": config.activation,
        "num_channels": 3,
        "downsample_in_first_stage": config.first_stride == 2,
        "downsample_in_bottleneck": config.early_stride,
    }


def norm_rules(ours: str, theirs: str) -> list[Rule]:
    """Returns the rules of a batch normalisation."""
    return [*layer_rules(ours, theirs, "none"), Rule(rf"{ours}\.(mean|var)", rf"{theirs}.running_\1")]


def layout(config: ResNetConfig) -> Layout:
    """Returns the names of the tensors in the config's layout."""
    timm = config.layout == "timm"
    rules = [*layer_rules("head", "fc" if timm else "classifier.1")]
    stem = ("conv1", "bn1") if timm else (f"resnet.embedder.embedder.{part}" for part in ("convolution", "normalization"))
    pairs = [*zip(("conv1", "bn1"), stem, strict=True)]
    for index, (stage, number) in enumerate(config.places):
        ours = rf"blocks\.{index}\."
        theirs = f"layer{stage + 1}.{number}." if timm else f"resnet.encoder.stages.{stage}.layers.{number}."
        for part in (1, 2, 3):
            inner = f"layer.{part - 1}."
            pairs.append((f"{ours}conv{part}", theirs + (f"conv{part}" if timm else f"{inner}convolution")))
            pairs.append((f"{ours}bn{part}", theirs + (f"bn{part}" if timm else f"{inner}normalization")))
        pairs.append((f"{ours}shortcut", theirs + ("downsample.0" if timm else "shortcut.convolution")))
        pairs.append((f"{ours}shortcut_bn", theirs + ("downsample.1" if timm else "shortcut.normalization")))
    for mine, name in pairs:
        rules += [Rule(rf"{mine}\.kernel", f"{name}.weight", "conv"), *norm_rules(mine, name)]
    return Layout(tuple(rules))
