"""Convolution and batch normalisation for mobile networks, fast on a CPU as well as on an accelerator.

XLA's CPU backend runs a grouped convolution 30 to 70 times slower than the arithmetic needs, so on a CPU a depthwise
convolution is written as k×k shifted multiply-adds with its own derivative. Every other backend gets the grouped
convolution. The choice is made while the program is lowered, so one traced program serves both.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.conv import conv2d

Pads = tuple[tuple[int, int], tuple[int, int]]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns TensorFlow's SAME padding (before, after) of one axis: the odd pixel goes after."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _taps(kernel: jax.Array) -> list[tuple[int, int]]:
    return [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]


def _window(padded: jax.Array, i: int, j: int, out_h: int, out_w: int, stride: int) -> jax.Array:
    """The part of the padded input that tap (i, j) meets: [n, out_h, out_w, c]."""
    n, _, _, c = padded.shape
    stop = (n, i + (out_h - 1) * stride + 1, j + (out_w - 1) * stride + 1, c)
    return jax.lax.slice(padded, (0, i, j, 0), stop, (1, stride, stride, 1))


def _pad(x: jax.Array, pads: Pads) -> jax.Array:
    """Zero padding of height and width; negative amounts cut off."""
    return jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)))


def _output_size(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    return (size + pad[0] + pad[1] - kernel) // stride + 1


def _shifted_forward(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    out_h = _output_size(x.shape[1], kernel.shape[0], stride, pads[0])
    out_w = _output_size(x.shape[2], kernel.shape[1], stride, pads[1])
    padded = _pad(x, pads)
    total: jax.Array | None = None
    for i, j in _taps(kernel):
        term = _window(padded, i, j, out_h, out_w, stride) * kernel[i, j, 0]
        total = term if total is None else total + term
    if total is None:
        raise ValueError("a depthwise kernel must have at least one tap")
    return total


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
            padded = _pad(grad, ((low_h, rows - grad.shape[1]), (low_w, columns - grad.shape[2])))
            total = jnp.zeros((n, rows, columns, c), grad.dtype)
            for m, i in enumerate(taps_h):
                for o, j in enumerate(taps_w):
                    total = total + _window(padded, low_h - m, low_w - o, rows, columns, 1) * kernel[i, j, 0]
            phases.append(total)
    if stride == 1:
        merged = phases[0]
    else:
        grid = jnp.stack([jnp.stack(phases[a * stride : (a + 1) * stride], 3) for a in range(stride)], 2)
        merged = grid.reshape(n, rows * stride, columns * stride, c)
    top, left = pads[0][0], pads[1][0]
    return _pad(merged, ((-top, height + top - merged.shape[1]), (-left, width + left - merged.shape[2])))


def _shifted_kernel_gradient(x: jax.Array, grad: jax.Array, shape: tuple[int, ...], stride: int, pads: Pads) -> jax.Array:
    k_h, k_w, _, c = shape
    padded = _pad(x, pads)
    sums = [
        jnp.sum(_window(padded, i, j, grad.shape[1], grad.shape[2], stride) * grad, (0, 1, 2))
        for i in range(k_h)
        for j in range(k_w)
    ]
    return jnp.stack(sums).reshape(k_h, k_w, 1, c)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    return _shifted_forward(x, kernel, stride, pads)


def _shifted_fwd(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads):  # type: ignore[no-untyped-def]
    return _shifted_forward(x, kernel, stride, pads), (x, kernel)


def _shifted_bwd(stride: int, pads: Pads, kept: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    d_x = _shifted_input_gradient(grad, kernel, x.shape, stride, pads)
    return d_x, _shifted_kernel_gradient(x, grad, kernel.shape, stride, pads)


_shifted.defvjp(_shifted_fwd, _shifted_bwd)


def _grouped(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
    )


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolves every channel with its own filter.

    Args:
      x: float [n, h, w, c].
      kernel: float [k_h, k_w, 1, c].
      stride: of both spatial axes.
      pads: zeros ((top, bottom), (left, right)).

    Returns:
      Float [n, h', w', c] with h' = (h + top + bottom - k_h) // stride + 1, of the dtype of `x`. The same values as
      `jax.lax.conv_general_dilated` with `feature_group_count=c`, up to the order of the sums.
    """
    return jax.lax.platform_dependent(
        x, kernel, cpu=lambda x, k: _shifted(x, k, stride, pads), default=lambda x, k: _grouped(x, k, stride, pads)
    )


class Conv(nnx.Module):
    """A two-dimensional convolution over [n, h, w, c], kernel [k, k, in / groups, out] (HWIO).

    Args:
      in_features, out_features: channels.
      kernel: side of the square kernel.
      stride: of both axes.
      padding: `"SAME"` (TensorFlow's: it depends on the input's size), `"VALID"`, or pixels on every side.
      groups: 1, or `in_features` (= `out_features`) for a depthwise convolution, or any divisor of both.
      use_bias: adds a bias [out_features].
      rngs: source of the kernel's initial values (variance 2 / fan-out normal, as EfficientNet's).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel: int,
        stride: int = 1,
        padding: str | int = "SAME",
        groups: int = 1,
        use_bias: bool = True,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        if in_features % groups or out_features % groups:
            raise UserError(f"a convolution from {in_features} to {out_features} channels cannot have {groups} groups.")
        if isinstance(padding, str) and padding not in ("SAME", "VALID"):
            raise UserError(f"padding {padding!r} is not known; give 'SAME', 'VALID' or a number of pixels.")
        self.stride, self.padding, self.groups, self.kernel_size = stride, padding, groups, kernel
        self.depthwise = groups > 1 and groups == in_features == out_features
        scale = math.sqrt(2.0 / (kernel * kernel * out_features / groups))
        shape = (kernel, kernel, in_features // groups, out_features)
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32)) if use_bias else None

    def pads(self, height: int, width: int) -> Pads:
        """Returns the zeros ((top, bottom), (left, right)) that an input of this size gets."""
        if self.padding == "SAME":
            return same_padding(height, self.kernel_size, self.stride), same_padding(width, self.kernel_size, self.stride)
        side = 0 if isinstance(self.padding, str) else self.padding
        return (side, side), (side, side)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps float [n, h, w, in] to [n, h', w', out] of the same dtype."""
        kernel = self.kernel[...].astype(x.dtype)
        pads = self.pads(x.shape[1], x.shape[2])
        if self.depthwise:
            y = depthwise_conv(x, kernel, self.stride, pads)
        elif self.groups == 1:
            y = conv2d(x, kernel, self.stride, pads)
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                (self.stride, self.stride),
                pads,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)
