"""The colours and sharpness of MoCo v2's views."""

from __future__ import annotations

import colorsys

import jax
import numpy as np
import pytest

from bridgejax.training.objectives import views


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((64, 12, 12, 3), np.float32)


def test_strength_zero_changes_nothing(images):
    np.testing.assert_array_equal(views.recoloured(jax.random.key(0), images, 0.0), images)


def test_images_change_in_colour_and_sharpness_as_often_as_stated(images):
    changed = np.asarray(views.recoloured(jax.random.key(0), images, 1.0))
    assert changed.min() >= 0
    assert changed.max() <= 1
    grey = np.ptp(changed, axis=-1).max((1, 2)) < 1e-5
    assert 0.05 < grey.mean() < 0.4  # 20 % of 64
    same = np.abs(changed - images).max((1, 2, 3)) < 1e-6
    assert 0.01 < same.mean() < 0.25  # 0.2 · 0.8 · 0.5


def test_a_turned_hue_is_another_hue_of_the_same_brightness():
    red = np.full((1, 2, 2, 3), (0.6, 0.4, 0.4), np.float32)
    turned = np.asarray(views._turned(red, np.full((1, 1, 1, 1), 0.1, np.float32)))[0, 0, 0]
    hue, _, _ = colorsys.rgb_to_hsv(*turned)
    assert min(hue, 1 - hue) == pytest.approx(0.1, abs=0.05)
    assert turned @ views._LUMA == pytest.approx(red[0, 0, 0] @ views._LUMA, abs=1e-4)


def test_a_blur_keeps_sums_and_spreads_a_point_as_a_gaussian():
    point = np.zeros((1, 224, 224, 3), np.float32)
    point[:, 112, 112] = 1
    blurred = np.asarray(views._blurred(point, np.full((1, 1, 1, 1), 1.5, np.float32)))[0, :, :, 0]
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    offsets = np.arange(224) - 112
    assert (blurred.sum(0) * offsets**2).sum() == pytest.approx(1.5**2, rel=0.01)
