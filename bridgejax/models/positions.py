"""Position embeddings of a vision transformer at another image size: torch's two bicubic interpolations as matrices.

timm resamples as Pillow does (Keys' kernel with a = -1/2, widened when it shrinks, cut off and normalised at the border);
transformers takes torch's plain bicubic (a = -3/4, four taps, the border's pixel repeated). `jax.image.resize` has the first
kernel alone.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


def _keys(distance: np.ndarray, a: float) -> np.ndarray:
    """Returns the cubic convolution kernel of Keys 1981 at a distance in pixels."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@functools.cache
def resample_matrix(old: int, new: int, antialias: bool) -> np.ndarray:
    """Returns the weights of `old` pixels in each of `new` pixels of the same line: float64 [new, old], rows that sum to 1.

    Args:
      old, new: how many pixels; both at least 1.
      antialias: as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False, antialias=…)`.
    """
    scale = old / new
    weights = np.zeros((new, old))
    for i in range(new):
        if antialias:
            widened = max(scale, 1.0)
            centre = scale * (i + 0.5)
            first = max(math.floor(centre - 2 * widened + 0.5), 0)
            last = min(math.floor(centre + 2 * widened + 0.5), old)
            taps = np.arange(first, last)
            values = _keys((taps + 0.5 - centre) / widened, -0.5)
            weights[i, taps] = values / values.sum()
        else:
            centre = scale * (i + 0.5) - 0.5
            taps = math.floor(centre) + np.arange(-1, 3)
            np.add.at(weights[i], np.clip(taps, 0, old - 1), _keys(taps - centre, -0.75))
    return weights


def resample(positions: jax.Array, prefix: int, grid: tuple[int, int], antialias: bool) -> jax.Array:
    """Returns position embeddings of another grid of patches.

    Args:
      positions: [1, prefix + side², width] of a square grid, row by row.
      prefix: embeddings before the grid's, of class tokens; they are kept.
      grid: rows and columns wanted.
      antialias: see `resample_matrix`.

    Returns:
      [1, prefix + rows · columns, width] in the dtype of `positions`; the same array where the grid stays.
    """
    side = math.isqrt(positions.shape[1] - prefix)
    if grid == (side, side):
        return positions
    rows, columns = (jnp.asarray(resample_matrix(side, new, antialias), positions.dtype) for new in grid)
    square = positions[0, prefix:].reshape(side, side, -1)
    resized = jnp.einsum("rh,cw,hwd->rcd", rows, columns, square, precision="highest")
    return jnp.concatenate([positions[:, :prefix], resized.reshape(1, grid[0] * grid[1], -1)], axis=1)
