"""Convolutions as one matrix product over unfolded windows ("im2col"), for CPUs; any kernel size, stride and padding."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]


def padded(x: jax.Array, pads: Pads) -> jax.Array:
    """Returns `x` [n, h, w, c] with zeros around it; negative amounts cut off."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)))


def output_size(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    """Returns how many positions a kernel takes along an axis."""
    return (size + sum(pad) - kernel) // stride + 1


def window(x: jax.Array, row: int, column: int, rows: int, columns: int, stride: int = 1) -> jax.Array:
    """Returns what one tap of a kernel meets in padded images [n, h, w, c]: [n, rows, columns, c]."""
    n, _, _, channels = x.shape
    stop = (n, row + (rows - 1) * stride + 1, column + (columns - 1) * stride + 1, channels)
    return lax.slice(x, (0, row, column, 0), stop, (1, stride, stride, 1))


def forward(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolves `x` [n, h, w, i] with `kernel` [a, b, i, o]: [n, h', w', o]."""
    a, b, channels, features = kernel.shape
    windows = _unfold(x, (a, b), stride, pads)
    return jnp.dot(windows, kernel.reshape(a * b * channels, features))


def kernel_gradient(x: jax.Array, grad: jax.Array, size: tuple[int, int], stride: int, pads: Pads) -> jax.Array:
    """Returns the transpose of `forward` in a kernel of `size` taps: [a, b, i, o] of `x` and `grad` [n, h', w', o]."""
    windows = _unfold(x, size, stride, pads)
    flat = windows.reshape(-1, windows.shape[-1]).T @ grad.reshape(-1, grad.shape[-1])
    return flat.reshape(*size, x.shape[-1], grad.shape[-1])


def input_gradient(grad: jax.Array, kernel: jax.Array, shape: tuple[int, ...], stride: int, pads: Pads) -> jax.Array:
    """Returns the transpose of `forward` in images of `shape` [n, h, w, i].

    One product gives what every output position adds to each pixel under the kernel; these are then laid over one another.
    """
    a, b, channels, features = kernel.shape
    # Alone, the transposition is a quick copy, and the product is then one that CPUs run well.
    weights = lax.optimization_barrier(kernel.reshape(a * b * channels, features).T)
    parts = jnp.dot(grad, weights).reshape(*grad.shape[:3], a, b, channels)
    zero = jnp.zeros((), grad.dtype)

    def places(axis: int, tap: int) -> tuple[int, int, int]:
        low, covered = tap - pads[axis][0], (grad.shape[1 + axis] - 1) * stride + 1
        return low, shape[1 + axis] - low - covered, stride - 1

    taps = [(i, j) for i in range(a) for j in range(b)]
    return functools.reduce(
        jnp.add, [lax.pad(parts[..., i, j, :], zero, ((0, 0, 0), places(0, i), places(1, j), (0, 0, 0))) for i, j in taps]
    )


def _unfold(x: jax.Array, size: tuple[int, int], stride: int, pads: Pads) -> jax.Array:
    """Returns the windows of all positions, taps before channels: [n, h', w', a · b · i]."""
    rows, columns = (output_size(side, taps, stride, pad) for side, taps, pad in zip(x.shape[1:3], size, pads, strict=True))
    around = padded(x, pads)
    taps = [(i, j) for i in range(size[0]) for j in range(size[1])]
    return jnp.concatenate([window(around, i, j, rows, columns, stride) for i, j in taps], -1)
