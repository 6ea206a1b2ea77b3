"""Overlaps of boxes, and which boxes stay: by their definitions, on random boxes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgejax.models.boxes import best_boxes, generalised_overlap, pairwise_overlaps

SEEDS = st.integers(0, 10_000)


def drawn(rng, count):
    low = rng.integers(0, 6, (count, 2))
    return np.concatenate([low, low + rng.integers(1, 5, (count, 2))], 1).astype(np.float32)


def cells(box):
    left, top, right, bottom = box.astype(int)
    return {(x, y) for x in range(left, right) for y in range(top, bottom)}


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_overlaps_are_shares_of_cells(seed):
    rng = np.random.default_rng(seed)
    a, b = drawn(rng, 3), drawn(rng, 3)
    found, general = np.asarray(pairwise_overlaps(a, b)), np.asarray(generalised_overlap(a, b))
    for i, j in np.ndindex(3, 3):
        first, second = cells(a[i]), cells(b[j])
        share = len(first & second) / len(first | second)
        np.testing.assert_allclose(found[i, j], share, atol=1e-6)
        if i == j:
            hull = cells(np.concatenate([np.minimum(a[i], b[i])[:2], np.maximum(a[i], b[i])[2:]]))
            np.testing.assert_allclose(general[i], share - (len(hull) - len(first | second)) / len(hull), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_the_generalised_overlap_tells_equal_boxes_and_keeps_a_gradient(seed):
    rng = np.random.default_rng(seed)
    a, b = drawn(rng, 4), drawn(rng, 4)
    value = generalised_overlap(a, b)
    np.testing.assert_allclose(value, generalised_overlap(b, a), atol=1e-6)
    np.testing.assert_allclose(value, generalised_overlap(3 * a + 5, 3 * b + 5), atol=1e-5)
    assert ((value > -1) & (value <= 1 + 1e-6)).all()
    np.testing.assert_array_equal(np.abs(value - 1) < 1e-6, (a == b).all(1))
    apart = jax.grad(lambda box: generalised_overlap(box, jnp.asarray([20.0, 20.0, 22.0, 22.0])))(jnp.asarray(a[0]))
    assert jnp.isfinite(apart).all()
    assert jnp.abs(apart).max() > 0


def test_empty_boxes_overlap_nothing_and_have_finite_gradients():
    nothing = jnp.zeros((1, 4))
    assert pairwise_overlaps(nothing, nothing)[0, 0] == 0
    assert jnp.isfinite(jax.grad(lambda box: generalised_overlap(box, nothing[0]))(nothing[0])).all()


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_best_boxes_are_those_of_the_greedy_rule(seed):
    rng = np.random.default_rng(seed)
    boxes, labels = drawn(rng, 8), rng.integers(0, 2, 8)
    shares = np.asarray(pairwise_overlaps(boxes, boxes))
    kept = []
    for rank in range(8):
        if all(labels[rank] != labels[other] or shares[other, rank] <= 0.3 for other in kept):
            kept.append(rank)
    found = jax.jit(best_boxes)(boxes, labels, 0.3)
    assert np.flatnonzero(found).tolist() == kept
