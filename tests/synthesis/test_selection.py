"""Which images a filter rule keeps, and how alike images are to each other and to real ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgejax.errors import UserError
from bridgejax.synthesis import nearest_earlier, real_margins, select

CLASSES = 4


@st.composite
def scored(draw):
    """Scores with many ties, and labels of which some class may be missing."""
    n = draw(st.integers(0, 40))
    scores = draw(st.lists(st.integers(0, 20).map(lambda x: x / 20), min_size=n, max_size=n))
    return np.float32(scores), np.asarray(draw(st.lists(st.integers(0, CLASSES - 1), min_size=n, max_size=n)), np.int32)


def per_class(kept, labels):
    return np.bincount(labels[kept], minlength=CLASSES)


@given(scored())
@settings(max_examples=50, deadline=None)
def test_above_chance_is_above_one_over_the_classes(case):
    scores, labels = case
    np.testing.assert_array_equal(select(scores, labels, classes=CLASSES), scores > 1 / CLASSES)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("classes", [2, 3, 6, 10, 11])
def test_chance_itself_is_not_above_chance_in_any_precision(classes, dtype):
    chance = np.asarray([1 / classes], dtype)
    assert not select(chance, [0], classes=classes)
    assert select(np.nextafter(chance, np.asarray(1, dtype)), [0], classes=classes)


@given(scored(), st.integers(1, 12), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_a_quota_takes_from_those_above_chance_and_fills_up_with_the_highest(case, count, seed):
    scores, labels = case
    kept = select(scores, labels, rule="quota", count=count, classes=CLASSES, seed=seed)
    sizes, passing = np.bincount(labels, minlength=CLASSES), per_class(scores > 1 / CLASSES, labels)
    np.testing.assert_array_equal(per_class(kept, labels), np.minimum(sizes, count))
    for label in range(CLASSES):
        mine = labels == label
        if passing[label] >= count:
            assert (scores[mine & kept] > 1 / CLASSES).all()
        elif (mine & ~kept).any():
            assert scores[mine & kept].min() >= scores[mine & ~kept].max()
    again = select(scores, labels, rule="quota", count=count, classes=CLASSES, seed=seed)
    np.testing.assert_array_equal(kept, again)
    smaller = select(scores, labels, rule="quota", count=max(1, count - 1), classes=CLASSES, seed=seed)
    assert (kept | ~smaller).all()


@given(scored(), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_top_keeps_the_highest_and_the_earlier_of_equal_ones(case, count):
    scores, labels = case
    kept = select(scores, labels, rule="top", count=count)
    for label in range(CLASSES):
        mine = np.flatnonzero(labels == label)
        expected = sorted(mine, key=lambda i: (-scores[i], i))[:count]
        assert set(np.flatnonzero(kept & (labels == label))) == set(expected)


@given(scored(), st.floats(0, 99.9))
@settings(max_examples=50, deadline=None)
def test_a_percentile_keeps_its_share_of_every_class(case, percentile):
    scores, labels = case
    kept = select(scores, labels, rule="percentile", percentile=percentile)
    sizes = np.bincount(labels, minlength=CLASSES)
    shares = sizes * (100 - percentile) / 100
    assert (np.abs(per_class(kept, labels) - shares) < 1).all()
    assert (per_class(kept, labels)[sizes > 0] > 0).all()
    for label in range(CLASSES):
        mine = labels == label
        if (mine & ~kept).any():
            assert scores[mine & kept].min() >= scores[mine & ~kept].max()


@given(scored(), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_a_class_is_judged_by_itself(case, count):
    scores, labels = case
    for options in ({"rule": "quota", "count": count}, {"rule": "top", "count": count}, {"rule": "above_chance"}):
        whole = select(scores, labels, classes=CLASSES, **options)
        for label in range(CLASSES):
            mine = labels == label
            alone = select(scores[mine], labels[mine], classes=CLASSES, **options)
            np.testing.assert_array_equal(whole[mine], alone)


def test_the_draw_of_a_quota_is_uniform_and_seeded():
    scores, labels = np.full(10, 0.9), np.zeros(10, int)
    draws = np.mean([select(scores, labels, rule="quota", count=3, classes=2, seed=seed) for seed in range(400)], axis=0)
    np.testing.assert_allclose(draws, 0.3, atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "best"}, "rule is 'best'"),
        ({"rule": "top"}, "count is None"),
        ({"rule": "quota", "count": 0}, "count is 0"),
        ({"count": 3}, "counts nothing"),
        ({"rule": "percentile"}, "give both or neither"),
        ({"rule": "percentile", "percentile": 100}, "below 100"),
        ({"classes": 1}, r"labels run from 0 to 1; give whole numbers in \[0, 1\)"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        select([0.5, 0.5], [0, 1], **arguments)


def test_scores_that_are_no_numbers_or_do_not_fit_are_named():
    with pytest.raises(UserError, match="NaN"):
        select([0.5, np.nan], [0, 1])
    with pytest.raises(UserError, match=r"scores \[2\] and labels \[3\] do not fit"):
        select([0.5, 0.5], [0, 1, 1])


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_the_earlier_image_of_a_class_that_is_most_alike(seed, n):
    rng = np.random.default_rng(seed)
    features, labels = rng.normal(size=(n, 3)), rng.integers(0, 3, n)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = [max([unit[i] @ unit[j] for j in range(i) if labels[j] == labels[i]], default=-1.0) for i in range(n)]
    found = nearest_earlier(features, labels)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(nearest_earlier(features[: n // 2 + 1], labels[: n // 2 + 1]), found[: n // 2 + 1], atol=1e-6)


def test_more_images_than_are_compared_at_once(monkeypatch):
    features = np.random.default_rng(0).normal(size=(50, 4))
    features[41] = 2 * features[3]
    whole = nearest_earlier(features, np.zeros(50, int))
    monkeypatch.setattr("bridgejax.synthesis.similarity._ROWS", 8)
    np.testing.assert_allclose(nearest_earlier(features, np.zeros(50, int)), whole, atol=1e-6)
    assert whole[41] == pytest.approx(1.0, abs=1e-6)


def test_the_margin_to_real_images_of_other_classes():
    real, owners = np.float32([[1, 0], [0.8, 0.6], [0, 1]]), [0, 0, 1]
    made, labels = np.float32([[2, 0], [0, 3], [0.8, 0.6], [0, 5]]), [0, 0, 1, 1]
    found = real_margins(made, labels, real, owners, ("cat", "dog"))
    np.testing.assert_allclose(found, [1.0 - 0.0, 0.6 - 1.0, 0.6 - 1.0, 1.0 - 0.6], atol=1e-6)


def test_a_class_without_shots_is_named():
    with pytest.raises(UserError, match="class 'dog' has no real images, which the filter rule 'real' compares with"):
        real_margins(np.eye(2), [0, 1], np.eye(2), [0, 0], ("cat", "dog"))
