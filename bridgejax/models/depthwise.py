"""Depthwise convolution, quick on a CPU as well as on an accelerator.

XLA's CPU backend runs a grouped convolution 30 to 70 times slower than the arithmetic needs, so on a CPU a depthwise
convolution is written as k×k shifted multiply-adds with its own derivative. Every other backend gets the grouped
convolution. The choice is made while the program is lowered, so one traced program serves both.
"""

from __future__ import annotations

import functools
import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.models.convolution import same_padding, widened
from bridgejax.models.initializers import he_depthwise
from bridgejax.models.unfolded import Pads, output_size, padded, window

# Up to this many output rows, the kernel's gradient is one reduction; above, a loop over rows is faster.
_ROWS_AT_ONCE = 4


def _shifted_forward(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    out_h = output_size(x.shape[1], kernel.shape[0], stride, pads[0])
    out_w = output_size(x.shape[2], kernel.shape[1], stride, pads[1])
    around = padded(x, pads)
    taps = itertools.product(range(kernel.shape[0]), range(kernel.shape[1]))
    return functools.reduce(jnp.add, [window(around, i, j, out_h, out_w, stride) * kernel[i, j, 0] for i, j in taps])


def _shifted_input_gradient(grad: jax.Array, kernel: jax.Array, shape: tuple[int, ...], stride: int, pads: Pads) -> jax.Array:
    """The transpose of `_shifted_forward` in x.

    Padded input row p receives tap i from output row (p - i) / stride where that is whole, so the rows fall into `stride`
    phases, each an unstrided convolution with every `stride`-th tap; the phases are then interleaved.
    """
    n, height, width, c = shape
    k_h, k_w = kernel.shape[:2]
    rows, columns = (math.ceil((size + sum(pad)) / stride) for size, pad in zip((height, width), pads, strict=True))
    phases = []
    for a in range(stride):
        for b in range(stride):
            # Row q of phase a is padded row q·stride + a: it meets taps i = a + m·stride from output row q - m.
            taps_h, taps_w = range(a, k_h, stride), range(b, k_w, stride)
            low_h, low_w = max(len(taps_h) - 1, 0), max(len(taps_w) - 1, 0)
            around = padded(grad, ((low_h, rows - grad.shape[1]), (low_w, columns - grad.shape[2])))
            total = jnp.zeros((n, rows, columns, c), grad.dtype)
            for m, i in enumerate(taps_h):
                for o, j in enumerate(taps_w):
                    total = total + window(around, low_h - m, low_w - o, rows, columns, 1) * kernel[i, j, 0]
            phases.append(total)
    if stride == 1:
        merged = phases[0]
    else:
        grid = jnp.stack([jnp.stack(phases[a * stride : (a + 1) * stride], 3) for a in range(stride)], 2)
        merged = grid.reshape(n, rows * stride, columns * stride, c)
    top, left = pads[0][0], pads[1][0]
    return padded(merged, ((-top, height + top - merged.shape[1]), (-left, width + left - merged.shape[2])))


def _tap_sums(windows: list[jax.Array], grad: jax.Array) -> list[jax.Array]:
    """Sums window · grad over all axes but the channels, for all taps in one pass over memory: a list of [c]."""
    products = [window * grad for window in windows]
    zeros = [jnp.zeros((), grad.dtype)] * len(products)
    axes = tuple(range(grad.ndim - 1))
    return list(jax.lax.reduce(products, zeros, lambda a, b: [u + v for u, v in zip(a, b, strict=True)], axes))


def _shifted_kernel_gradient(x: jax.Array, grad: jax.Array, shape: tuple[int, ...], stride: int, pads: Pads) -> jax.Array:
    """The transpose of `_shifted_forward` in the kernel.

    One output row at a time, so that what the taps share stays in the cache: 4 to 15 times faster than a sum per tap. The
    loop runs over rows and not over images because images may lie on several devices.
    """
    k_h, k_w, _, c = shape
    _, out_h, out_w, _ = grad.shape
    around = padded(x, pads)
    taps = [(i, j) for i in range(k_h) for j in range(k_w)]
    if out_h <= _ROWS_AT_ONCE:
        sums = _tap_sums([window(around, i, j, out_h, out_w, stride) for i, j in taps], grad)
        return jnp.stack(sums).reshape(shape)

    def add_row(totals: list[jax.Array], row: jax.Array) -> tuple[list[jax.Array], None]:
        band = jax.lax.dynamic_slice_in_dim(around, row * stride, k_h, 1)
        windows = [window(band, i, j, 1, out_w, stride) for i, j in taps]
        sums = _tap_sums(windows, jax.lax.dynamic_slice_in_dim(grad, row, 1, 1))
        return [total + part for total, part in zip(totals, sums, strict=True)], None

    zeros = [jnp.zeros((c,), grad.dtype)] * len(taps)
    totals, _ = jax.lax.scan(add_row, zeros, jnp.arange(out_h))
    return jnp.stack(totals).reshape(shape)


# Without it XLA fuses the k×k terms into each of the result's users, and computes them once per user.
_barrier = jax.lax.optimization_barrier


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    return _barrier(_shifted_forward(x, kernel, stride, pads))


def _shifted_fwd(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads):  # type: ignore[no-untyped-def]
    return _barrier(_shifted_forward(x, kernel, stride, pads)), (x, kernel)


def _shifted_bwd(
    stride: int, pads: Pads, residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    d_x = _barrier(_shifted_input_gradient(grad, kernel, x.shape, stride, pads))
    return d_x, _shifted_kernel_gradient(x, grad, kernel.shape, stride, pads)


_shifted.defvjp(_shifted_fwd, _shifted_bwd)


def _grouped(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
    )


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolves every channel of float `x` [n, h, w, c] with its own filter of `kernel` [k_h, k_w, 1, c].

    Returns:
      Float [n, h', w', c] with h' = (h + top + bottom - k_h) // stride + 1, of the dtype of `x`. The same values as
      `jax.lax.conv_general_dilated` with `feature_group_count=c`, up to the order of the sums.
    """

    def on_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _shifted(widened(x), widened(kernel), stride, pads).astype(x.dtype)  # its sums are long: none in half precision

    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=lambda x, k: _grouped(x, k, stride, pads))


class DepthwiseConv2d(nnx.Module):
    """A convolution of every channel with a filter of its own, without bias and with TensorFlow's SAME padding."""

    def __init__(self, features: int, kernel: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(he_depthwise(rngs.params(), (kernel, kernel, 1, features)))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps float [n, h, w, features] to [n, ⌈h / stride⌉, ⌈w / stride⌉, features] of the same dtype."""
        kernel = self.kernel[...].astype(x.dtype)
        pads = tuple(same_padding(size, kernel.shape[0], self.stride) for size in x.shape[1:3])
        return depthwise_conv(x, kernel, self.stride, (pads[0], pads[1]))
