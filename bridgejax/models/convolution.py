"""Dense convolutions: XLA's own on accelerators, and on a CPU the quickest of three ways for each shape and direction.

XLA's CPU convolution unfolds windows inside Eigen's matrix product. Winograd's filtering takes fewer products, and wins where
channels are many. Where a kernel covers more positions than the images have, XLA exchanges the two and leaves Eigen for a plain
loop, a hundred times slower: unfolded windows replace it. `python -m benchmarks convolutions` measures all ways on the shapes
of the networks here and names each shape for which `ways` does not choose the quickest.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from bridgejax.models import unfolded, winograd
from bridgejax.models.dense import dense
from bridgejax.models.unfolded import Pads

# Fewer channels, or fewer tiles of 2×2 pixels in all images, leave Winograd's products too narrow to repay its transforms.
WINOGRAD_CHANNELS, WINOGRAD_TILES = 32, 64
# In its kernel gradient the channels bound the products on both sides.
WINOGRAD_GRADIENT_CHANNELS = 128


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns TensorFlow's SAME padding (before, after) of one axis: the odd pixel goes after."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def widened(x: jax.Array) -> jax.Array:
    """Returns `x` in float32 at least: statistics and sums of shorter floats are taken in float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Ways(NamedTuple):
    """How a convolution and its two derivatives are computed on a CPU: "xla", "winograd" or "unfolded"."""

    forward: str
    input_gradient: str
    kernel_gradient: str


def ways(shape: tuple[int, ...], kernel: tuple[int, ...], stride: int, pads: Pads) -> Ways:
    """Returns the ways for images [n, h, w, i] and a kernel [a, b, i, o]."""
    a, b, channels, features = kernel
    rows, columns = (
        unfolded.output_size(side, taps, stride, pad) for side, taps, pad in zip(shape[1:3], (a, b), pads, strict=True)
    )
    # XLA exchanges image and window where the window of one of its three convolutions is the larger one.
    window, image, output = a * b, shape[1] * shape[2], rows * columns
    forward = "unfolded" if window > image else "xla"
    input_gradient = "unfolded" if window > output or stride > 1 else "xla"
    kernel_gradient = "unfolded" if output > image else "xla"
    if (a, b, stride) == (3, 3, 1) and output > window:
        narrow = min(channels, features)
        if narrow >= WINOGRAD_CHANNELS and shape[0] * -(-rows // 2) * -(-columns // 2) >= WINOGRAD_TILES:
            forward = input_gradient = "winograd"
            if narrow >= WINOGRAD_GRADIENT_CHANNELS:
                kernel_gradient = "winograd"
    return Ways(forward, input_gradient, kernel_gradient)


def conv2d(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Returns the convolution of float `x` [n, h, w, i] with `kernel` [a, b, i, o] of the same dtype: [n, h', w', o].

    Returns:
      The values of `jax.lax.conv_general_dilated` up to the order of the sums, h' = (h + top + bottom - a) // stride + 1. A 1×1
      kernel is a matrix product, on accelerators with stride 1 alone: XLA's GPU compiler (jaxlib 0.11.2) aborts the process
      where it fuses a strided slice into a product. Half precision is computed in float32 on a CPU and rounded once.
    """
    if kernel.shape[:2] == (1, 1) and pads == ((0, 0), (0, 0)):
        if stride == 1:
            return dense(x, kernel[0, 0])
        return lax.platform_dependent(
            x, kernel, cpu=partial(_strided_product, stride=stride), default=partial(_xla, stride=stride, pads=pads)
        )
    return lax.platform_dependent(
        x, kernel, cpu=partial(_on_cpu, stride=stride, pads=pads), default=partial(_xla, stride=stride, pads=pads)
    )


def _strided_product(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return dense(x[:, ::stride, ::stride], kernel[0, 0])


def _xla(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _on_cpu(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    return _computed(widened(x), widened(kernel), stride, pads).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _computed(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    way = ways(x.shape, kernel.shape, stride, pads).forward
    if way == "winograd":
        return winograd.forward(x, kernel, pads)
    if way == "unfolded":
        return unfolded.forward(x, kernel, stride, pads)
    return _xla(x, kernel, stride, pads)


def _computed_fwd(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads):  # type: ignore[no-untyped-def]
    return _computed(x, kernel, stride, pads), (x, kernel)


def _computed_bwd(
    stride: int, pads: Pads, residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    way = ways(x.shape, kernel.shape, stride, pads)
    if way.input_gradient == "winograd":
        d_x = winograd.input_gradient(grad, kernel, pads)
    elif way.input_gradient == "unfolded":
        d_x = unfolded.input_gradient(grad, kernel, x.shape, stride, pads)
    else:
        (d_x,) = jax.linear_transpose(lambda x: _xla(x, kernel, stride, pads), x)(grad)
    if way.kernel_gradient == "winograd":
        d_kernel = winograd.kernel_gradient(x, grad, pads)
    elif way.kernel_gradient == "unfolded":
        d_kernel = unfolded.kernel_gradient(x, grad, (kernel.shape[0], kernel.shape[1]), stride, pads)
    else:
        d_kernel = _xla_kernel_gradient(x, grad, (kernel.shape[0], kernel.shape[1]), stride, pads)
    return d_x, d_kernel


def _xla_kernel_gradient(x: jax.Array, grad: jax.Array, size: tuple[int, int], stride: int, pads: Pads) -> jax.Array:
    """Returns the transpose of `_xla` in a kernel of `size` taps, as XLA computes it: a convolution of channels by images.

    Both operands are transposed for it. Left to the compiler, a transposition also recomputes what made its operand, reading
    several arrays against their order in memory, at up to five times the cost of the plain copies here.
    """
    with set_xla_metadata(inlineable="false"):
        images, window = _channels_first_images_last(x), _images_before_channels(grad)
    spread = [(side - 1) * stride + 1 for side in grad.shape[1:3]]
    around = [
        (pad[0], taps + covered - 1 - side - pad[0])
        for pad, taps, covered, side in zip(pads, size, spread, x.shape[1:3], strict=True)
    ]
    taps = lax.conv_general_dilated(
        images, window, (1, 1), around, rhs_dilation=(stride, stride), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return taps.transpose(1, 2, 0, 3)


@jax.jit
def _channels_first_images_last(x: jax.Array) -> jax.Array:
    return x.transpose(3, 1, 2, 0)


@jax.jit
def _images_before_channels(x: jax.Array) -> jax.Array:
    return x.transpose(1, 2, 0, 3)


_computed.defvjp(_computed_fwd, _computed_bwd)
