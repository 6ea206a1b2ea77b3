"""Floating-point operations of the classifiers, counted by hand from the shapes of their convolutions and matrix products.

A multiplication and an addition count as two; normalisations, activations and sums count nothing. What counts is the network,
not the kernels that carry it out: a convolution is counted as the plain sum over its window, however it is computed.
"""

from __future__ import annotations

import math

CLASSES = 1000
FORWARD = "counted by hand from the shapes of convolutions and matrix products"
TRAINING = f"{FORWARD}, the backward pass as twice the forward one less the first layer's input gradient"
_RESNETS = {"resnet18": ((2, 2, 2, 2), False), "resnet50": ((3, 4, 6, 3), True)}
_VITS = {"vit_s16": 384, "vit_b16": 768}
_VIT_LAYERS, _PATCH = 12, 16
# Tan and Le's rows: repeats, kernel, stride, expansion, channels.
_LITE0 = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def forward(network: str, size: int) -> float:
    """Returns the operations of one image's forward pass at `size` pixels; `network` is a name of `benchmarks.networks`."""
    first, rest = _products(network, size)
    return 2.0 * (first + rest)


def training(network: str, size: int) -> float:
    """Returns the operations of one image's forward and backward pass."""
    first, rest = _products(network, size)
    return 2.0 * (2 * first + 3 * rest)


def _products(network: str, size: int) -> tuple[int, int]:
    """Returns the multiplications of the first layer and of all others."""
    if network in _RESNETS:
        return _resnet(*_RESNETS[network], size)
    return _vit(_VITS[network], size) if network in _VITS else _lite0(size)


def _resnet(depths: tuple[int, ...], bottleneck: bool, size: int) -> tuple[int, int]:
    side = math.ceil(size / 2)
    first = side**2 * 7 * 7 * 3 * 64
    side, channels, rest = math.ceil(side / 2), 64, 0
    for stage, depth in enumerate(depths):
        inner = 64 << stage
        out = 4 * inner if bottleneck else inner
        for number in range(depth):
            stride = 2 if stage and not number else 1
            after = math.ceil(side / stride)
            if bottleneck:
                rest += side**2 * channels * inner + after**2 * (9 * inner * inner + inner * out)
            else:
                rest += after**2 * 9 * (channels * out + out * out)
            if stride != 1 or channels != out:
                rest += after**2 * channels * out
            side, channels = after, out
    return first, rest + channels * CLASSES


def _vit(width: int, size: int) -> tuple[int, int]:
    patches = (size // _PATCH) ** 2
    tokens = patches + 1
    layer = 12 * tokens * width**2 + 2 * tokens**2 * width
    return patches * 3 * _PATCH**2 * width, _VIT_LAYERS * layer + width * CLASSES


def _lite0(size: int) -> tuple[int, int]:
    side = math.ceil(size / 2)
    first = side**2 * 3 * 3 * 3 * 32
    channels, rest = 32, 0
    for repeats, kernel, row_stride, expansion, out in _LITE0:
        for number in range(repeats):
            inner = expansion * channels
            after = side if number else math.ceil(side / row_stride)
            expand = side**2 * channels * inner if expansion > 1 else 0
            rest += expand + after**2 * (kernel**2 * inner + inner * out)
            side, channels = after, out
    return first, rest + side**2 * channels * 1280 + 1280 * CLASSES
