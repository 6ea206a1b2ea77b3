"""The geometry of boxes as pure functions. Corners are float [..., 4]: left, top, right, bottom, in any one unit."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def _area(low: jax.Array, high: jax.Array) -> jax.Array:
    """Returns the area between corners [..., 2], 0 where they are in the wrong order."""
    return jnp.prod(jnp.maximum(high - low, 0.0), -1)


def _shared_and_union(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    shared = _area(jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:]))
    return shared, _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - shared


def _share(part: jax.Array, whole: jax.Array) -> jax.Array:
    """Returns part / whole, and 0 of nothing, also in the derivative."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)


def pairwise_overlaps(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the intersection over union of all pairs of corners [n, 4] and [m, 4], [n, m] in [0, 1]; 0 of empty boxes."""
    return _share(*_shared_and_union(a[:, None], b[None, :]))


def generalised_overlap(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the generalised intersection over union of corners [..., 4] (Rezatofighi et al. 2019, arXiv 1902.09630).

    IoU - (hull - union) / hull, with the smallest box that holds both as the hull: in [-1, 1], 1 of equal boxes, and with a
    gradient also where the boxes are apart.
    """
    shared, union = _shared_and_union(a, b)
    hull = _area(jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:]))
    return _share(shared, union) - _share(hull - union, hull)


def best_boxes(corners: jax.Array, labels: jax.Array, overlap: float) -> jax.Array:
    """Returns which boxes [k, 4], best first, stay: those that no better one of their class that stays overlaps by more.

    Greedy non-maximum suppression. Shapes are static, so that it can be jitted and mapped over images.
    """
    covers = (pairwise_overlaps(corners, corners) > overlap) & (labels[:, None] == labels[None, :])
    covers = jnp.triu(covers, 1)  # of worse ones alone

    def judge(rank: jax.Array, stays: jax.Array) -> jax.Array:
        return stays & ~(covers[rank] & stays[rank])

    return jax.lax.fori_loop(0, len(labels), judge, jnp.ones(labels.shape, bool))
