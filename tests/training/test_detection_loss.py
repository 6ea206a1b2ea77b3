"""The loss of a detector: the focal loss, which cells find which boxes, and what the loss must not depend on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fixtures import TinyNet

from bridgejax.errors import UserError
from bridgejax.models.detector import cell_centres
from bridgejax.training import TrainState, make_optimizer, make_train_step
from bridgejax.training.detection_loss import NO_BOX, DetectionLoss, boxes_of_cells, detection_losses, focal_loss

SIDE, CELLS, CLASSES = 64, 64, 3  # 8 by 8 cells of 8 pixels
SEEDS = st.integers(0, 10_000)


def drawn(rng, count=3):
    low = rng.uniform(0, 50, (count, 2))
    corners = np.concatenate([low, np.minimum(low + rng.uniform(1, 40, (count, 2)), SIDE)], 1).astype(np.float32)
    return corners, rng.integers(0, CLASSES, count).astype(np.int32)


@settings(deadline=None, max_examples=40)
@given(st.floats(-30, 30), st.booleans(), st.floats(0, 1), st.floats(0, 5))
def test_focal_loss_is_weighted_cross_entropy(logit, target, alpha, gamma):
    found = float(focal_loss(jnp.float32(logit), jnp.float32(target), alpha, gamma))
    p = 1 / (1 + np.exp(-logit if target else logit))
    weight = alpha if target else 1 - alpha
    assert found == pytest.approx(weight * (1 - p) ** gamma * np.logaddexp(0, -logit if target else logit), rel=1e-3, abs=1e-6)
    slope = jax.grad(lambda x: focal_loss(x, jnp.float32(target), alpha, gamma))(jnp.float32(logit))
    assert np.isfinite(slope)
    assert slope <= 1e-7 if target else slope >= -1e-7


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_cells_find_the_smallest_box_whose_middle_is_near(seed):
    corners, labels = drawn(np.random.default_rng(seed))
    labels[0] = NO_BOX
    centres = np.asarray(cell_centres(CELLS, SIDE))
    found = np.asarray(boxes_of_cells(jnp.asarray(centres), 8.0, jnp.asarray(corners), jnp.asarray(labels)))
    assert 0 not in found
    areas = (corners[:, 2:] - corners[:, :2]).prod(1)
    for centre, box in zip(centres, found, strict=True):
        away = abs(centre - (corners[:, :2] + corners[:, 2:]) / 2).max(1)
        inside = ((centre > corners[:, :2]) & (centre < corners[:, 2:])).all(1)
        near = [j for j in (1, 2) if (inside[j] and away[j] <= 12) or away[j] <= 4]
        assert box == (min(near, key=lambda j: areas[j]) if near else NO_BOX)
    smallest = 1 + int(areas[2] < areas[1])
    assert smallest in found  # however small, some cell finds it


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_the_loss_knows_no_order_and_no_padding(seed):
    rng = np.random.default_rng(seed)
    corners, labels = drawn(rng)
    outputs = jnp.asarray(rng.normal(size=(CELLS, CLASSES + 4)), jnp.float32)
    options = DetectionLoss()
    found = detection_losses(outputs, SIDE, corners, labels, options)
    order = rng.permutation(3)
    padded = np.concatenate([corners[order], np.zeros((2, 4), np.float32)])
    again = detection_losses(outputs, SIDE, padded, np.append(labels[order], [NO_BOX] * 2), options)
    np.testing.assert_allclose(found, again, rtol=1e-5)
    nothing = detection_losses(outputs, SIDE, 0 * corners, np.full(3, NO_BOX), options)
    assert nothing[1] == 0
    slopes = jax.grad(lambda x: sum(detection_losses(x, SIDE, 0 * corners, np.full(3, NO_BOX), options)))(outputs)
    assert jnp.isfinite(slopes).all()
    assert (slopes[:, :CLASSES] > 0).all()  # without boxes, every score should fall


def test_the_right_answer_costs_next_to_nothing():
    corners, labels = np.asarray([[16, 8, 32, 40]], np.float32), np.asarray([1])
    outputs = np.full((CELLS, CLASSES + 4), -20.0, np.float32)
    centres = np.asarray(cell_centres(CELLS, SIDE))
    box = np.asarray(boxes_of_cells(centres, 8.0, corners, labels))
    outputs[box == 0, 1] = 20
    outputs[:, 3:5] = ([24, 24] - centres) / 8
    outputs[:, 5:] = np.log([16 / 32, 32 / 32])
    scores, boxes = detection_losses(jnp.asarray(outputs), SIDE, corners, labels, DetectionLoss())
    assert scores < 1e-6
    assert boxes < 1e-5


def test_a_network_without_boxes_and_wrong_options_are_refused():
    state = TrainState.create(TinyNet(nnx.Rngs(0)), make_optimizer("sgd", 0.1))
    batch = {"image": np.zeros((1, 8, 8, 3), np.float32), "boxes": np.zeros((1, 1, 4)), "box_label": np.zeros((1, 1), int)}
    with pytest.raises(UserError, match="a TinyNet finds no boxes"):
        make_train_step(DetectionLoss())(state, batch)
    with pytest.raises(UserError, match="alpha is 2"):
        DetectionLoss(alpha=2)
