"""Mixup (Zhang et al. 2018, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899): formulas, and a step's draws."""

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


class MixRule(NamedTuple):
    """Mixup's α, CutMix's, and the share of batches that are cut where both are above 0; neither above 0 mixes nothing."""

    mixup_alpha: float | np.floating
    cutmix_alpha: float | np.floating = 0.0
    cutmix_share: float | np.floating = 0.5

    @property
    def mixes(self) -> bool:
        return bool(self.mixup_alpha > 0 or self.cutmix_alpha > 0)

    def cut_size(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Returns the height and width of images [n, h, w, c] for a draw; None where it cuts none.

        Raises:
          UserError: they are no images.
        """
        if not self.cutmix_alpha > 0:
            return None
        if len(shape) != 4:
            raise UserError(f"batch['image'] is {list(shape)}; CutMix takes images [n, h, w, 3].")
        return shape[1], shape[2]


class MixupDraw(NamedTuple):
    """How a step mixes its batch."""

    lam: jax.Array  # λ in [0, 1], float32 scalar: the weight of a row's own target
    partners: jax.Array  # int32 [n], of each row
    # Of CutMix, int32 [4]: top, bottom, left and right of what images take from their partners. Where it is the whole image
    # they are mixed by λ. None: they always are.
    box: jax.Array | None = None


# (key, step, rule, mask or None) → the step's draw
Draw = Callable[[jax.Array, jax.Array, MixRule, jax.Array | None], MixupDraw]


@under_jax_defaults
def mixup(images: jax.Array, one_hot: jax.Array, lam: jax.Array | float, permutation: jax.Array) -> tuple[jax.Array, jax.Array]:
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
    if draw.box is not None and x.ndim == 4:
        weight = own_weights(draw.lam, draw.box, x.shape[1], x.shape[2])[..., None]
    elif weight.ndim:
        weight = weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim))
    return weight.astype(x.dtype) * x + (1.0 - weight).astype(x.dtype) * x[draw.partners]


def draw_mixup(key: jax.Array, alpha: jax.Array | float | np.floating, rows: int, mask: jax.Array | None) -> MixupDraw:
    """Returns λ ~ Beta(α, α), α > 0, and partners that never pair a row that counts with padding."""
    for_lam, for_partners = jax.random.split(key)
    lam = jax.random.beta(for_lam, alpha, alpha).astype(jnp.float32)
    padding = jnp.zeros(rows, bool) if mask is None else mask <= 0
    order = jnp.argsort(padding, stable=True)
    shuffled = jnp.argsort(jnp.where(padding, 2.0, jax.random.uniform(for_partners, (rows,))), stable=True)
    return MixupDraw(lam, jnp.zeros(rows, jnp.int32).at[order].set(shuffled.astype(jnp.int32)))


def own_weights(lam: jax.Array, box: jax.Array, height: int, width: int) -> jax.Array:
    """Returns the weight of an image's own pixels in a draw with a box, float32 [height, width]."""
    (top, bottom, left, right), y, x = box, jnp.arange(height)[:, None], jnp.arange(width)
    whole = jnp.all(box == jnp.asarray([0, height, 0, width]))
    return jnp.where((y >= top) & (y < bottom) & (x >= left) & (x < right), jnp.where(whole, lam, 0.0), 1.0)


def cut_box(lam: jax.Array, centre: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Returns a box, as `MixupDraw.box`, of 1 - λ of an image less what is outside, and the exact share of the image beside it.

    Args:
      lam: λ in [0, 1].
      centre: int32 [2], y and x within the image.
      size: height and width of the image.
    """
    sides = jnp.asarray(size, jnp.int32)
    cut = (sides * jnp.sqrt(1.0 - lam)).astype(jnp.int32)
    first, last = jnp.clip(centre - cut // 2, 0, sides), jnp.clip(centre + (cut + 1) // 2, 0, sides)
    beside = 1.0 - jnp.prod(last - first).astype(jnp.float32) / (size[0] * size[1])
    return jnp.stack([first, last], 1).reshape(4), beside


def draw_mix(key: jax.Array, rule: MixRule, rows: int, mask: jax.Array | None, size: tuple[int, int]) -> MixupDraw:
    """Returns a draw of Mixup or CutMix, one for the whole batch, for images of `size`; `rule` names at least CutMix."""
    for_mixup, for_choice, for_centre = jax.random.split(key, 3)
    cuts = (jax.random.uniform(for_choice) < rule.cutmix_share) | (jnp.asarray(rule.mixup_alpha) <= 0)
    drawn = draw_mixup(for_mixup, jnp.where(cuts, rule.cutmix_alpha, rule.mixup_alpha), rows, mask)
    sides = jnp.asarray(size, jnp.int32)
    box, beside = cut_box(drawn.lam, jax.random.randint(for_centre, (2,), 0, sides), size)
    whole = jnp.asarray([0, size[0], 0, size[1]], jnp.int32)
    return MixupDraw(jnp.where(cuts, beside, drawn.lam), drawn.partners, jnp.where(cuts, box, whole))


@functools.cache
def draw_function(rows: int, size: tuple[int, int] | None = None) -> Draw:
    """Returns the draw of a step for so many rows and a `MixRule.cut_size`: by the state's key, folded with the step."""

    def draw(key: jax.Array, step: jax.Array, rule: MixRule, mask: jax.Array | None) -> MixupDraw:
        key = jax.random.fold_in(key, step)
        return draw_mixup(key, rule.mixup_alpha, rows, mask) if size is None else draw_mix(key, rule, rows, mask, size)

    return draw


@functools.cache
def draw_program(rows: int, mesh: Mesh | None, parts: int = 1, size: tuple[int, int] | None = None) -> Draw:
    """Returns `draw_function` jitted: a program of its own, since sampling Beta takes longer to compile than to run.

    Of a batch of several parts it makes a draw for each, stacked.
    """
    one = draw_function(rows // parts, size)

    def each(key: jax.Array, step: jax.Array, rule: MixRule, mask: jax.Array | None) -> MixupDraw:
        masks = None if mask is None else in_parts(mask, parts, data_size(mesh))
        return jax.vmap(one, in_axes=(0, None, None, 0))(jax.random.split(key, parts), step, rule, masks)

    draw = one if parts == 1 else each
    return jax.jit(draw) if mesh is None else jax.jit(draw, out_shardings=replicated(mesh))


@functools.cache
def no_mixup(rows: int, mesh: Mesh | None, parts: int = 1) -> MixupDraw:
    """Returns the draw that mixes nothing, placed as `draw_program` places its own: other placements compile anew."""
    draw = MixupDraw(jnp.ones((), jnp.float32), jnp.arange(rows // parts, dtype=jnp.int32))
    if parts > 1:
        draw = MixupDraw(jnp.ones(parts, jnp.float32), jnp.tile(draw.partners, (parts, 1)))
    return draw if mesh is None else MixupDraw(*replicate((draw.lam, draw.partners), mesh))
