"""Gains by class and label-space-matched LEEP."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from bridgejax.errors import UserError
from bridgejax.evaluation import leep, leep_matched, per_class_gain
from bridgejax.evaluation.leep_matched import shared_variance_posteriors


def blobs(per_class: int, classes: int, spread: float, seed: int = 0, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    return 10 * rng.normal(size=(classes, d))[labels] + spread * rng.normal(size=(len(labels), d)), labels


def test_matched_leep_of_separate_classes_is_0_and_of_a_blind_network_the_negative_entropy():
    x, y = blobs(20, 4, 0.1)
    assert leep_matched(x, y) == pytest.approx(0.0, abs=1e-6)
    mixed = y.reshape(4, 20).T.reshape(-1)  # labels that have nothing to do with the clusters: 5 of each in every cluster
    assert leep_matched(x, mixed) == pytest.approx(-np.log(4), abs=1e-6)
    assert leep_matched(x, y, pseudo_classes=1) == pytest.approx(-np.log(4))


def test_matched_leep_gives_both_networks_the_same_number_of_pseudo_classes():
    """A head with many outputs that echo noise looks good to plain LEEP; without heads the better features win."""
    rng = np.random.default_rng(0)
    good, labels = blobs(12, 5, 1.0)
    bad = rng.normal(size=(60, 6))
    memory = np.eye(60)  # sixty pseudo-classes, one for each image
    assert leep(memory, labels) == pytest.approx(0.0)
    assert leep_matched(good, labels) > leep_matched(bad, labels) + 0.5


def test_matched_leep_is_repeatable_and_blind_to_scale_place_and_rotation():
    x, y = blobs(10, 4, 6.0)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert leep_matched(x, y) == leep_matched(x, y)
    assert leep_matched(50 * x @ turn + 7, y) == pytest.approx(leep_matched(x, y), abs=1e-6)


def test_posteriors_are_those_of_scikit_learns_mixture_at_the_same_parameters():
    """scikit-learn has no shared spherical variance, but evaluates one: our fit is a fixed point of its E step."""
    x, _ = blobs(15, 3, 4.0)
    posteriors = shared_variance_posteriors(x, 3)
    np.testing.assert_allclose(posteriors.sum(axis=1), 1)
    mass = posteriors.sum(axis=0)
    means = posteriors.T @ x / mass[:, None]
    variance = (posteriors * ((x[:, None] - means) ** 2).sum(-1)).sum() / x.size
    theirs = GaussianMixture(3, covariance_type="spherical")
    theirs.weights_, theirs.means_ = mass / len(x), means
    theirs.covariances_ = np.full(3, variance)
    theirs.precisions_cholesky_ = 1 / np.sqrt(theirs.covariances_)
    np.testing.assert_allclose(theirs.predict_proba(x), posteriors, atol=1e-3)


def test_matched_leep_of_what_does_not_fit():
    x, y = blobs(3, 2, 0.1)
    for arguments, words in (
        ((x, y[:2]), "do not fit"),
        ((np.full_like(x, np.inf), y), "features: there is NaN or infinity"),
        ((x, y, 7), "at most 6"),
        ((x, y - 1), "labels run from -1 to 0; give whole numbers"),
    ):
        with pytest.raises(UserError, match=words):
            leep_matched(*arguments)
    repeated = np.repeat(x[:1], 6, axis=0)
    assert leep_matched(repeated, y, pseudo_classes=1) == pytest.approx(-np.log(2))


def test_gain_by_class_is_the_difference_of_the_accuracies():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 20, 25])
    base = (rng.random((3, 75)) < 0.5).astype(float)
    better = np.where(labels == 1, 1.0, base)
    found = per_class_gain(better, base, labels, classes=4)
    assert found.gain[1] == pytest.approx(1 - base[:, labels == 1].mean())
    assert found.low[1] > 0
    assert found.images.tolist() == [30, 20, 25, 0]
    for unchanged in (0, 2):  # paired: the same answers leave no doubt
        assert (found.gain[unchanged], found.low[unchanged], found.high[unchanged]) == (0, 0, 0)
    assert np.isnan([found.gain[3], found.low[3]]).all()


def test_gain_intervals_hold_the_truth_as_often_as_they_say():
    labels, held = np.zeros(60, int), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        found = per_class_gain(rng.random(60) < 0.7, rng.random(60) < 0.5, labels, replicates=300, seed=seed)
        held += found.low[0] <= 0.2 <= found.high[0]
    assert held >= 86  # 95 expected; fewer than 86 of 100 at 95 % has a chance below 1e-3


def test_gain_counts_only_what_both_tested():
    nan = np.nan
    found = per_class_gain([[1, 1, nan, 0], [1, nan, 1, 1]], [[0, nan, nan, 0], [1, 0, 0, 0]], [0, 0, 0, 0])
    assert found.gain[0] == pytest.approx(((1 + 0) / 2 + (0 + 1 + 1) / 3) / 2)
    alone = per_class_gain([1], [0], [0])
    assert (alone.gain[0], np.isnan(alone.low[0])) == (1, True)
    with pytest.raises(UserError, match="do not fit"):
        per_class_gain([1, 0], [1], [0, 0])
    with pytest.raises(UserError, match="labels run from 0 to 5"):
        per_class_gain([1, 0], [1, 1], [0, 5], classes=3)
