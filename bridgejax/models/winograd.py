"""3×3 convolutions of stride 1 by Winograd's minimal filtering F(2×2, 3×3), for CPUs.

Lavin and Gray 2015 (arXiv:1509.09308), section 4.1. The output falls into tiles of 2×2 pixels, each of which sees 4×4 of the
input. With B, G and A of that section, a tile is Aᵀ [(G k Gᵀ) ⊙ (Bᵀ d B)] A: 16 products instead of 36, summed over the
channels by 16 matrix products. Its transforms add, subtract and halve only, so that the result lies as near to the exact one
as a direct sum does; larger tiles save more products and lose digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from bridgejax.models.unfolded import Pads

# Transformed tiles beyond this many bytes are made strip by strip: whole, they would be four times as large as the images.
STRIP_BYTES = 256 << 20

_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # Bᵀ
_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))  # Aᵀ


def forward(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Convolves float `x` [n, h, w, i] with `kernel` [3, 3, i, o] at stride 1: [n, h + top + bottom - 2, …, o]."""
    return _convolved(x, _kernel_tiles(kernel), pads)


def input_gradient(grad: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Returns the transpose of `forward` in its images, float [n, h, w, i].

    Args:
      grad: float [n, h', w', o], the gradient of the output.
      kernel: float [3, 3, i, o].
      pads: those of `forward`.
    """
    (top, bottom), (left, right) = pads
    turned = ((2 - top, 2 - bottom), (2 - left, 2 - right))
    # Transposed last, by a copy of its own: the transform runs along memory, and the products run as in `forward`.
    return _convolved(grad, _kernel_tiles(kernel[::-1, ::-1]).swapaxes(1, 2), turned)


def _convolved(x: jax.Array, weights: jax.Array, pads: Pads) -> jax.Array:
    """Convolves with transformed kernels [16, i, o]."""
    n, height, width = x.shape[0], x.shape[1] + sum(pads[0]) - 2, x.shape[2] + sum(pads[1]) - 2
    rows, columns = -(-height // 2), -(-width // 2)
    padded = _padded(x, pads, rows, columns)
    weights = lax.optimization_barrier(weights)
    strips = _strips(rows, 16 * n * columns * sum(weights.shape[1:]) * x.dtype.itemsize)
    high = rows // strips

    def strip(number: jax.Array | int) -> jax.Array:
        part = lax.dynamic_slice_in_dim(padded, number * 2 * high, 2 * high + 2, 1)
        return _output_pixels(jnp.matmul(_input_tiles(part), weights), n, high, columns)

    if strips == 1:
        y = strip(0)
    else:
        y = jnp.moveaxis(lax.map(strip, jnp.arange(strips)), 0, 1).reshape(n, 2 * rows, 2 * columns, -1)
    return y[:, :height, :width]


def kernel_gradient(x: jax.Array, grad: jax.Array, pads: Pads) -> jax.Array:
    """Returns the transpose of `forward` in its kernel, float [3, 3, i, o].

    Args:
      x: float [n, h, w, i], what was convolved.
      grad: float [n, h', w', o], the gradient of the output.
      pads: those of `forward`.
    """
    n, height, width, features = grad.shape
    rows, columns = -(-height // 2), -(-width // 2)
    padded = _padded(x, pads, rows, columns)
    grad = jnp.pad(grad, ((0, 0), (0, 2 * rows - height), (0, 2 * columns - width), (0, 0)))
    strips = _strips(rows, 16 * n * columns * (x.shape[-1] + features) * x.dtype.itemsize)
    high = rows // strips

    def strip(number: jax.Array | int) -> jax.Array:
        part = lax.dynamic_slice_in_dim(padded, number * 2 * high, 2 * high + 2, 1)
        band = lax.dynamic_slice_in_dim(grad, number * 2 * high, 2 * high, 1)
        return lax.dot_general(_input_tiles(part), _gradient_tiles(band), (((1,), (1,)), ((0,), (0,))))

    if strips == 1:
        tiles = strip(0)
    else:
        zeros = jnp.zeros((16, x.shape[-1], features), x.dtype)
        tiles, _ = lax.scan(lambda total, number: (total + strip(number), None), zeros, jnp.arange(strips))
    return _kernel_taps(tiles)


def _strips(rows: int, bytes_per_row: int) -> int:
    """Returns into how many strips of equal height to cut so many rows of tiles."""
    return next(k for k in range(1, rows + 1) if rows % k == 0 and (rows // k * bytes_per_row <= STRIP_BYTES or k == rows))


def _padded(x: jax.Array, pads: Pads, rows: int, columns: int) -> jax.Array:
    """Pads the images to whole tiles: [n, 2 · rows + 2, 2 · columns + 2, i]."""
    (top, _), (left, _) = pads
    bottom, right = 2 * rows + 2 - x.shape[1] - top, 2 * columns + 2 - x.shape[2] - left
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)))


def _combined(matrix: Sequence[Sequence[float]], parts: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns the rows of a small constant matrix times a column of arrays, without its zeros."""
    results = []
    for row in matrix:
        terms = [part if c == 1 else -part if c == -1 else c * part for c, part in zip(row, parts, strict=True) if c]
        results.append(sum(terms[1:], start=terms[0]))
    return results


def _transposed(matrix: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return list(zip(*matrix, strict=True))


def _input_tiles(padded: jax.Array) -> jax.Array:
    """Returns Bᵀ d B of every tile d of [n, 2 · rows + 2, 2 · columns + 2, i]: [16, tiles, i]."""
    n, height, width, channels = padded.shape
    rows, columns = height // 2 - 1, width // 2 - 1
    by_row = [lax.slice_in_dim(padded, k, k + 2 * rows - 1, 2, 1) for k in range(4)]
    # Kept apart, each pass reads two arrays; fused, the second one would work out the first four times over.
    halves = lax.optimization_barrier(jnp.stack(_combined(_INPUT, by_row)))
    by_column = [lax.slice_in_dim(halves, k, k + 2 * columns - 1, 2, 3) for k in range(4)]
    return jnp.stack(_combined(_INPUT, by_column), 1).reshape(16, n * rows * columns, channels)


def _gradient_tiles(grad: jax.Array) -> jax.Array:
    """Returns A g Aᵀ of every 2×2 tile g of [n, 2 · rows, 2 · columns, o]: [16, tiles, o]."""
    n, height, width, features = grad.shape
    tiles = grad.reshape(n, height // 2, 2, width // 2, 2, features)
    halves = jnp.stack(_combined(_transposed(_OUTPUT), [tiles[:, :, k] for k in range(2)]))
    whole = jnp.stack(_combined(_transposed(_OUTPUT), [halves[..., k, :] for k in range(2)]), 1)
    return whole.reshape(16, -1, features)


def _output_pixels(tiles: jax.Array, n: int, rows: int, columns: int) -> jax.Array:
    """Returns Aᵀ m A of every m of [16, tiles, o], put together: [n, 2 · rows, 2 · columns, o]."""
    m = tiles.reshape(4, 4, n, rows, columns, -1)
    halves = [_combined(_OUTPUT, [m[i, j] for i in range(4)]) for j in range(4)]
    whole = [_combined(_OUTPUT, [halves[j][row] for j in range(4)]) for row in range(2)]
    return jnp.stack([jnp.stack(row, 3) for row in whole], 2).reshape(n, 2 * rows, 2 * columns, -1)


def _kernel_tiles(kernel: jax.Array) -> jax.Array:
    """Returns G k Gᵀ: [16, i, o] of [3, 3, i, o]."""
    halves = [_combined(_KERNEL, [kernel[i, j] for i in range(3)]) for j in range(3)]
    return jnp.stack([tile for row in range(4) for tile in _combined(_KERNEL, [halves[j][row] for j in range(3)])])


def _kernel_taps(tiles: jax.Array) -> jax.Array:
    """Returns the transpose of `_kernel_tiles`: [3, 3, i, o] of [16, i, o]."""
    w = tiles.reshape(4, 4, *tiles.shape[1:])
    halves = [_combined(_transposed(_KERNEL), [w[i, j] for i in range(4)]) for j in range(4)]
    return jnp.stack([jnp.stack(_combined(_transposed(_KERNEL), [halves[j][row] for j in range(4)])) for row in range(3)])
