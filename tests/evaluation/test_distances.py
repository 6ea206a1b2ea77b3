"""Kernel distance, precision and recall, nearest real images and Fréchet intervals against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
from flax import nnx
from sklearn.metrics.pairwise import cosine_distances, polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from bridgejax.errors import UserError
from bridgejax.evaluation import (
    frechet_distance,
    frechet_interval,
    image_features,
    kernel_distance,
    kernel_distance_subsets,
    nearest_real,
    pairs,
    precision_recall,
)


def clouds(n: int, m: int, d: int, seed: int = 0, shift: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) * 1.2 + shift


def unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """From scikit-learn's kernel, diagonals left out."""
    own = [polynomial_kernel(z, degree=3, coef0=1) for z in (x, y)]
    means = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in own]
    return sum(means) - 2 * polynomial_kernel(x, y, degree=3, coef0=1).mean()


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks each way, with a last one that is not full."""
    monkeypatch.setattr(pairs, "ROWS", 16)
    monkeypatch.setattr(pairs, "COLUMNS", 32)


@pytest.mark.parametrize(("n", "m"), [(75, 51), (40, 130)])
def test_kernel_distance_is_that_of_the_kernel_matrices(small_blocks, n, m):
    x, y = clouds(n, m, 20)
    # Means of a kernel of order 1 whose sums are float32: 1e-6 relative, over hundreds of pairs.
    assert kernel_distance(x, y).distance == pytest.approx(unbiased_mmd(x, y), abs=3e-6)
    assert kernel_distance(y, x).distance == pytest.approx(unbiased_mmd(x, y), abs=3e-6)


def test_kernel_distance_is_unbiased_and_its_standard_error_that_of_other_images():
    far = [kernel_distance(*clouds(60, 45, 8, seed)) for seed in range(150)]
    spread = np.std([one.distance for one in far], ddof=1)
    assert np.mean([one.standard_error for one in far]) == pytest.approx(spread, rel=0.2)
    alike = [kernel_distance(*np.split(np.random.default_rng(seed).normal(size=(60, 8)), 2)).distance for seed in range(150)]
    assert abs(np.mean(alike)) < 3 * np.std(alike) / np.sqrt(150)
    assert min(alike) < 0


def test_kernel_distance_of_subsets_agrees_with_that_of_all_rows():
    x, y = clouds(120, 90, 6)
    whole = kernel_distance(x, y)
    parts = kernel_distance_subsets(x, y, subsets=60, subset_size=30, seed=1)
    assert parts.distance == pytest.approx(whole.distance, abs=4 * parts.standard_error)
    assert (parts.subsets, parts.images) == (60, (30, 30))
    assert kernel_distance_subsets(x, y, subsets=2, subset_size=1000).images == (90, 90)
    assert kernel_distance_subsets(x, y, 3, 30, seed=1) == kernel_distance_subsets(x, y, 3, 30, seed=1)
    with pytest.raises(UserError, match="do not fit"):
        kernel_distance(x, y[:, :3])
    with pytest.raises(UserError, match="there is NaN or infinity among the values"):
        kernel_distance(x, np.where(y > 3, np.nan, y))


def sklearn_precision(real: np.ndarray, synthetic: np.ndarray, k: int) -> np.ndarray:
    """Which synthetic rows lie in a ball around a real row, by scikit-learn's neighbours and a plain distance table."""
    radii = NearestNeighbors(n_neighbors=k).fit(real).kneighbors()[0][:, -1]
    table = np.linalg.norm(synthetic[:, None] - real[None], axis=-1)
    return (table <= radii).any(axis=1)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_those_of_scikit_learns_neighbours(small_blocks, k):
    real, synthetic = clouds(70, 101, 4, shift=0.8)
    found = precision_recall(real, synthetic, k)
    np.testing.assert_array_equal(found.realistic, sklearn_precision(real, synthetic, k))
    np.testing.assert_array_equal(found.covered, sklearn_precision(synthetic, real, k))
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1


def test_precision_and_recall_tell_copies_collapse_and_noise_apart():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(60, 5)) + 1000.0  # far from the origin, where float32 distances are coarse
    same = precision_recall(real, real.copy())
    assert (same.precision, same.recall) == (1.0, 1.0)
    collapsed = precision_recall(real, real[:1] + 1e-3 * rng.normal(size=(60, 5)))
    assert collapsed.precision == 1.0
    assert collapsed.recall < 0.05
    away = precision_recall(real, real + 50)
    assert (away.precision, away.recall) == (0.0, 0.0)
    with pytest.raises(UserError, match="at least 4 rows"):
        precision_recall(real[:3], real)


def test_nearest_real_image_by_angle(small_blocks):
    rng = np.random.default_rng(0)
    real, synthetic = rng.normal(size=(90, 6)), rng.normal(size=(50, 6))
    synthetic[7] = 3.0 * real[33]
    table = cosine_distances(synthetic, real)
    found = nearest_real(synthetic, real, quantile=0.05)
    np.testing.assert_array_equal(found.index, table.argmin(axis=1))
    np.testing.assert_allclose(found.distance, table.min(axis=1), atol=1e-12)
    among = cosine_distances(real) + 9 * np.eye(90)
    np.testing.assert_allclose(found.real_distance, among.min(axis=1), atol=1e-12)
    assert found.threshold == pytest.approx(np.quantile(among.min(axis=1), 0.05))
    np.testing.assert_array_equal(found.suspected, table.min(axis=1) <= found.threshold)
    assert found.closest(3)[0] == 7
    assert found.suspected[7]
    assert found.suspected.mean() < 0.2


def test_nearest_real_image_by_pixels():
    rng = np.random.default_rng(0)
    real = rng.uniform(size=(12, 48))
    synthetic = np.concatenate([real[[5]], real[[2]] + 0.01, rng.uniform(size=(4, 48))])
    found = nearest_real(synthetic, real, metric="pixels")
    assert found.index[:2].tolist() == [5, 2]
    assert found.distance[0] == 0.0
    assert found.distance[1] == pytest.approx(0.01)
    assert found.suspected.tolist() == [True, True, False, False, False, False]
    for wrong, words in (({"metric": "l1"}, "metric is 'l1'; give 'cosine' or 'pixels'"), ({"quantile": 2}, "from 0 to 1")):
        with pytest.raises(UserError, match=words):
            nearest_real(synthetic, real, **wrong)
    with pytest.raises(UserError, match="only one real image"):
        nearest_real(synthetic, real[:1])
    with pytest.raises(UserError, match="a row of features has length 0"):
        nearest_real(np.zeros((2, 48)), real)


@pytest.mark.parametrize(("n", "m", "d"), [(9, 14, 30), (40, 60, 5)])
def test_a_frechet_replicate_is_the_distance_of_the_drawn_rows(n, m, d):
    from bridgejax.evaluation.frechet import _Pair

    a, b = clouds(n, m, d)
    rng = np.random.default_rng(3)
    drawn_a, drawn_b = rng.integers(0, n, n), rng.integers(0, m, m)
    weights = [np.bincount(drawn, minlength=size).astype(float) for drawn, size in ((drawn_a, n), (drawn_b, m))]
    assert _Pair(a, b).distance(*weights) == pytest.approx(frechet_distance(a[drawn_a], b[drawn_b]), rel=1e-9)


def test_frechet_intervals_hold_the_truth_as_often_as_they_say():
    truth = 4 * 0.5**2 + 4 * (1.2 - 1.0) ** 2  # of N(0, I) and N(0.5, 1.2² I) in four dimensions
    held = 0
    for seed in range(40):
        found = frechet_interval(*clouds(80, 80, 4, seed), replicates=60, seed=seed)
        assert found.low < found.high
        held += found.low <= truth <= found.high
    assert held >= 32  # 38 expected; fewer than 32 of 40 at 95 % has a chance below 1e-3


def test_a_frechet_difference_tells_the_nearer_set():
    real, far = clouds(50, 60, 6, shift=1.0)
    near = np.random.default_rng(9).normal(size=(60, 6)) + 0.2
    found = frechet_interval(near, real, minus=far, replicates=80)
    assert found.estimate == pytest.approx(frechet_distance(near, real) - frechet_distance(far, real))
    assert found.low < found.estimate < found.high < 0
    nothing = frechet_interval(near, real, minus=near, replicates=80)
    assert nothing.low < 0 < nothing.high
    assert frechet_interval(near, real, replicates=5, seed=2) == frechet_interval(near, real, replicates=5, seed=2)
    with pytest.raises(UserError, match="level is 95; give a number between 0 and 1"):
        frechet_interval(near, real, level=95)


def test_features_are_the_models_and_padding_is_left_out():
    from bridgejax.models import load_classifier

    model = load_classifier("builtin:efficientnet_lite0")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    batches = [
        {"image": images[:3], "mask": np.array([1.0, 1.0, 1.0])},
        {"image": images[[3, 0, 0]], "mask": np.array([1.0, 0.0, 0.0])},
    ]
    found = image_features(model, batches)
    preprocessing = model.preprocessing
    normalised = (images / np.float32(255) - np.float32(preprocessing.mean)) / np.float32(preprocessing.std)
    expected = nnx.jit(lambda model, values: model.features(values))(model, normalised)
    assert found.shape == (4, 1280)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(UserError, match="there are no images to take features of"):
        image_features(model, [])
