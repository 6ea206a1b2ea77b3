"""All pairs of rows of two feature tables, block by block: nothing of size n × m is ever held.

A jitted program takes a block of rows of one table past all blocks of the other, in float32 at full matrix precision (no
TF32, no bfloat16 passes); sums over blocks are float64 on the host. Tables are padded to whole blocks, so one program per
(block shape, width) serves any number of rows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bridgejax.evaluation.inputs import Booleans, Floats, Integers
from bridgejax.jax_defaults import under_jax_defaults

ROWS, COLUMNS = 2048, 4096

# The root mean squares of rows up to which float32, at most 3.4e38, holds what is summed: with x·y / d at most r², a block of
# `COLUMNS` cubes r⁶, so r below (3.4e38 / 4096)^(1/6) = 6.6e5; and of squares 4·d·r², so r below 9e15 for a million columns.
LARGEST_CUBED, LARGEST_SQUARED = 5e5, 5e15


@under_jax_defaults
def cubic_kernel_sums(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Returns Σ_j (k(a_i, b_j) - 1) for every i and Σ_i (k(a_i, b_j) - 1) for every j, with k(x, y) = (x·y / d + 1)³.

    The 1 cancels in every difference of means of k; without it no digits are lost to it, and rows of padding (zeros) add
    nothing.

    Returns:
      float64 [n] and [m].
    """
    root = np.sqrt(a.shape[1])
    columns = _blocks(b / root, COLUMNS)
    over_b, over_a = [], np.zeros(columns.shape[:2])
    for block in _row_blocks(a / root, ROWS):
        rows, columns_part = jax.device_get(_kernel_rows(block, columns))
        over_b.append(rows.astype(np.float64).sum(axis=0))
        over_a += columns_part
    return np.concatenate(over_b)[: len(a)], over_a.reshape(-1)[: len(b)]


@under_jax_defaults
def nearest_rows(a: Floats, b: Floats, k: int, same: bool = False) -> tuple[Floats, Integers]:
    """Returns the k nearest rows of `b` to each row of `a` by Euclidean distance.

    The search runs in float32 on tables centred at b's mean; the distances of what it finds are computed again in float64
    from the differences, so that the distance of equal rows is 0, not what rounding leaves of it.

    Args:
      a: float64 [n, d].
      b: float64 [m, d].
      k: how many, at most m (at most m - 1 with `same`).
      same: `a` is `b`, and a row is no neighbour of itself (another row that equals it is).

    Returns:
      Distances float64 [n, k], ascending, and positions in `b` int64 [n, k].
    """
    centre = b.mean(axis=0)
    columns = _blocks(b - centre, COLUMNS)
    positions = []
    for number, block in enumerate(_row_blocks(a - centre, ROWS)):
        start = number * block.shape[0] if same else -1 - block.shape[0]  # the latter matches no column
        positions.append(np.asarray(_nearest_rows(block, columns, jnp.int32(len(b)), jnp.int32(start), k=k)))
    index = np.concatenate(positions)[: len(a)].astype(np.int64)
    distance = np.empty(index.shape)
    step = max(1, (1 << 25) // (k * a.shape[1]))
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        distance[part] = np.linalg.norm(a[part, None] - b[index[part]], axis=-1)
    order = np.argsort(distance, axis=1, kind="stable")
    return np.take_along_axis(distance, order, 1), np.take_along_axis(index, order, 1)


@under_jax_defaults
def inside_any_ball(a: Floats, centres: Floats, radii: Floats) -> Booleans:
    """Returns bool [n]: whether each row of `a` [n, d] lies within `radii` [m] of any row of `centres` [m, d].

    The edge belongs to the ball, up to the rounding of float32: a relative 1e-6 of the squared lengths that are compared.
    """
    centre = centres.mean(axis=0)
    columns, reach = _blocks(centres - centre, COLUMNS), _blocks(np.asarray(radii)[:, None], COLUMNS, fill=-1.0)[..., 0]
    return np.concatenate([np.asarray(_inside(block, columns, reach)) for block in _row_blocks(a - centre, ROWS)])[: len(a)]


def _blocks(table: Floats, size: int, fill: float = 0.0) -> jax.Array:
    """Returns float32 [blocks, size, d] on the device; a small table has one block of the next power of two."""
    size = min(size, 1 << max(0, len(table) - 1).bit_length())
    extra = -len(table) % size
    padded = np.pad(table.astype(np.float32), ((0, extra), (0, 0)), constant_values=fill)
    return jnp.asarray(padded.reshape(-1, size, table.shape[1]))


def _row_blocks(table: Floats, size: int) -> Iterator[jax.Array]:
    size = min(size, 1 << max(0, len(table) - 1).bit_length())
    for start in range(0, len(table), size):
        part = table[start : start + size].astype(np.float32)
        yield jnp.asarray(np.pad(part, ((0, size - len(part)), (0, 0))))


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _kernel_rows(x: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[r, d] and [blocks, c, d] → sums over each block's columns [blocks, r] and over the rows [blocks, c]."""

    def sum_block(_: None, y: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
        u = _products(x, y)
        values = u * (u * (u + 3.0) + 3.0)  # (u + 1)³ - 1
        return None, (values.sum(axis=1), values.sum(axis=0))

    return jax.lax.scan(sum_block, None, columns)[1]


def _squared(x: jax.Array, y: jax.Array) -> jax.Array:
    return (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1) - 2.0 * _products(x, y)


@functools.partial(jax.jit, static_argnames="k")
def _nearest_rows(x: jax.Array, columns: jax.Array, count: jax.Array, start: jax.Array, *, k: int) -> jax.Array:
    """Positions int32 [r, k] of the nearest of the first `count` columns; row i is not compared with column start + i."""
    rows, width = x.shape[0], columns.shape[1]

    def merge_block(
        best: tuple[jax.Array, jax.Array], block: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        y, number = block
        position = number * width + jnp.arange(width)
        itself = position == (start + jnp.arange(rows))[:, None]
        squared = jnp.where(itself | (position >= count), jnp.inf, _squared(x, y))
        near, place = jax.lax.top_k(-squared, min(k, width))
        values = jnp.concatenate([best[0], near], axis=1)
        places = jnp.concatenate([best[1], position[place]], axis=1)
        top, chosen = jax.lax.top_k(values, k)
        return (top, jnp.take_along_axis(places, chosen, axis=1)), None

    first = (jnp.full((rows, k), -jnp.inf), jnp.zeros((rows, k), jnp.int32))
    (_, places), _ = jax.lax.scan(merge_block, first, (columns, jnp.arange(columns.shape[0])))
    return places


@jax.jit
def _inside(x: jax.Array, columns: jax.Array, radii: jax.Array) -> jax.Array:
    def test_block(inside: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        y, radius = block
        lengths = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1)
        near = lengths - 2.0 * _products(x, y) <= radius**2 + 1e-6 * lengths
        return inside | (near & (radius >= 0)).any(axis=1), None

    return jax.lax.scan(test_block, jnp.zeros(x.shape[0], bool), (columns, radii))[0]
