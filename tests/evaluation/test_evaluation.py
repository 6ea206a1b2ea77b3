"""Metrics against direct loops, closed forms and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg

from bridgejax.errors import UserError
from bridgejax.evaluation import (
    classification_metrics,
    confusion_matrix,
    expected_calibration_error,
    frechet_distance,
    leep,
    mean_per_class_accuracy,
    per_class_accuracy,
    reliability,
)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_accuracy_by_class_and_confusion():
    labels, guesses = [0, 0, 0, 1, 2, 2], [0, 1, 0, 1, 0, 2]
    confusion = confusion_matrix(labels, guesses, 4)
    assert confusion.tolist() == [[2, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(per_class_accuracy(confusion)[:3], [2 / 3, 1, 1 / 2])
    assert np.isnan(per_class_accuracy(confusion)[3])
    assert mean_per_class_accuracy(confusion) == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    metrics = classification_metrics(labels, np.eye(4)[guesses] * 5)
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    assert metrics["correct"] == [1, 0, 1, 1, 0, 1]
    assert metrics["per_class_accuracy"][3] is None
    with pytest.raises(UserError, match="labels run from 0 to 4"):
        confusion_matrix([0, 4], [0, 0], 4)


def test_leep_is_the_definition_summed_in_loops():
    rng = np.random.default_rng(0)
    theta, labels = softmax(rng.normal(size=(40, 5)) * 2), rng.integers(0, 4, 40)
    joint = np.zeros((4, 5))
    for row, y in zip(theta, labels, strict=True):
        for z in range(5):
            joint[y, z] += row[z] / 40
    total = 0.0
    for row, y in zip(theta, labels, strict=True):
        total += math.log(sum(joint[y, z] / joint[:, z].sum() * row[z] for z in range(5)))
    assert leep(theta, labels) == pytest.approx(total / 40, rel=1e-12)
    assert leep(theta.astype(np.float32), labels * 7 + 3) == pytest.approx(total / 40, rel=1e-6)


def test_leep_of_a_perfect_source_is_0_and_of_a_blind_one_the_negative_entropy():
    labels = np.array([0, 0, 1, 1, 1, 2])
    assert leep(np.eye(4)[labels], labels) == pytest.approx(0.0, abs=1e-12)
    share = np.array([2, 3, 1]) / 6
    assert leep(np.full((6, 4), 0.25), labels) == pytest.approx((share * np.log(share)).sum())
    with pytest.raises(UserError, match="softmax outputs"):
        leep(np.ones((6, 4)), labels)


def test_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 6)), rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 1.0
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * scipy.linalg.sqrtm(ca @ cb).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)
    # Independent columns: Σ (μ_a - μ_b)² + (σ_a - σ_b)².
    x = rng.normal(size=(500, 1))
    assert frechet_distance(x, 3 * x + 2) == pytest.approx((2 * x.mean() + 2) ** 2 + (2 * x.std(ddof=1)) ** 2, rel=1e-9)


def test_frechet_distance_of_fewer_rows_than_columns_is_real_and_zero_for_equal_clouds():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(10, 50)).astype(np.float32)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a, a + 1) == pytest.approx(50.0, rel=1e-6)
    with pytest.raises(UserError, match="do not fit"):
        frechet_distance(a, a[:, :3])
    with pytest.raises(UserError, match="at least 2 rows"):
        frechet_distance(a[:1], a)


def test_calibration_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.55, 0.45], [0.0, 1.0]])
    labels = np.array([0, 1, 0, 1])
    found = reliability(probabilities, labels, bins=10)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 1, 1, 1]
    assert found.error == pytest.approx((0.1 + 0.8 + 0.45 + 0.0) / 4)
    assert expected_calibration_error(np.eye(2)[labels], labels) == 0.0
