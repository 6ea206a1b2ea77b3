"""Mixup (Zhang et al. 2018, arXiv 1710.09412): its formula, and what a step draws for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bridgejax.errors import UserError
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.mesh import data_size, replicate, replicated
from bridgejax.training.batches import in_parts


class MixupDraw(NamedTuple):
    """How a step mixes its batch: `lam`, λ in [0, 1] (float32 scalar), and `partners`, int32 [n], of each row."""

    lam: jax.Array
    partners: jax.Array


# (key, step, α, mask or None) → the step's draw
Draw = Callable[[jax.Array, jax.Array, float | np.floating, jax.Array | None], MixupDraw]


@under_jax_defaults
def mixup(
    images: jax.Array,
    one_hot: jax.Array,
    lam: jax.Array | float,
    permutation: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns λ·x + (1 - λ)·x[permutation] for images and targets alike.

    Args:
      images: float [n, ...].
      one_hot: float [n, classes].
      lam: λ in [0, 1], a scalar or [n].
      permutation: int [n], the partner of each row.

    Raises:
      UserError: the rows do not agree, or the permutation holds no whole numbers.
    """
    images, one_hot, permutation = jnp.asarray(images), jnp.asarray(one_hot), jnp.asarray(permutation)
    lengths = [len(array.shape) and array.shape[0] for array in (images, one_hot, permutation)]
    if len({*lengths}) > 1 or not jnp.issubdtype(permutation.dtype, jnp.integer):
        raise UserError(
            f"mixup got {lengths[0]} images, {lengths[1]} targets and a permutation of {lengths[2]} ({permutation.dtype}); "
            "give one row of each per image, and the partners as whole numbers."
        )
    draw = MixupDraw(jnp.asarray(lam, jnp.float32), permutation)
    return mixed(images, draw), mixed(one_hot, draw)


def mixed(values: jax.Array, draw: MixupDraw | None) -> jax.Array:
    """Returns the rows of `values` [n, ...] mixed with their partners; as they are without a draw."""
    if draw is None:
        return values
    x, weight = values, draw.lam
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float32)
    if weight.ndim:
        weight = weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim))
    return weight.astype(x.dtype) * x + (1.0 - weight).astype(x.dtype) * x[draw.partners]


def draw_mixup(key: jax.Array, alpha: float | np.floating, rows: int, mask: jax.Array | None) -> MixupDraw:
    """Returns λ ~ Beta(α, α), α > 0, and partners that never pair a row that counts with padding."""
    for_lam, for_partners = jax.random.split(key)
    lam = jax.random.beta(for_lam, alpha, alpha).astype(jnp.float32)
    padding = jnp.zeros(rows, bool) if mask is None else mask <= 0
    order = jnp.argsort(padding, stable=True)
    shuffled = jnp.argsort(jnp.where(padding, 2.0, jax.random.uniform(for_partners, (rows,))), stable=True)
    return MixupDraw(lam, jnp.zeros(rows, jnp.int32).at[order].set(shuffled.astype(jnp.int32)))


@functools.cache
def draw_function(rows: int) -> Draw:
    """Returns the draw of a step for batches of so many rows: by the state's key, folded with the step."""

    def draw(key: jax.Array, step: jax.Array, alpha: float | np.floating, mask: jax.Array | None) -> MixupDraw:
        return draw_mixup(jax.random.fold_in(key, step), alpha, rows, mask)

    return draw


@functools.cache
def draw_program(rows: int, mesh: Mesh | None, parts: int = 1) -> Draw:
    """Returns `draw_function` jitted: a program of its own, since sampling Beta takes longer to compile than to run.

    Of a batch of several parts it makes a draw for each, stacked.
    """
    one = draw_function(rows // parts)

    def each(key: jax.Array, step: jax.Array, alpha: float | np.floating, mask: jax.Array | None) -> MixupDraw:
        masks = None if mask is None else in_parts(mask, parts, data_size(mesh))
        return jax.vmap(one, in_axes=(0, None, None, 0))(jax.random.split(key, parts), step, alpha, masks)

    draw = one if parts == 1 else each
    return jax.jit(draw) if mesh is None else jax.jit(draw, out_shardings=replicated(mesh))


@functools.cache
def no_mixup(rows: int, mesh: Mesh | None, parts: int = 1) -> MixupDraw:
    """Returns the draw that mixes nothing, placed as `draw_program` places its own: other placements compile anew."""
    draw = MixupDraw(jnp.ones((), jnp.float32), jnp.arange(rows // parts, dtype=jnp.int32))
    if parts > 1:
        draw = MixupDraw(jnp.ones(parts, jnp.float32), jnp.tile(draw.partners, (parts, 1)))
    return draw if mesh is None else MixupDraw(*replicate(tuple(draw), mesh))
