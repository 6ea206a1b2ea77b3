"""Average precision: by hand, by its definition on random sets, and what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgejax.errors import UserError
from bridgejax.evaluation import BoxSet, average_precisions

CLASSES, IMAGES = 3, 2


def random_set(rng, count):
    start = rng.integers(0, 4, (count, 2))
    corners = np.concatenate([start, start + rng.integers(1, 4, (count, 2))], 1)
    return BoxSet(rng.integers(0, IMAGES, count), rng.integers(0, CLASSES, count), corners)


def drawn(seed):
    rng = np.random.default_rng(seed)
    true, found = random_set(rng, rng.integers(1, 9)), random_set(rng, rng.integers(0, 12))
    return found, rng.permutation(len(found.label)) / 7, true, rng


def test_by_hand():
    true = BoxSet([0, 0, 1], [0, 0, 0], [[0, 0, 2, 2], [4, 4, 6, 6], [0, 0, 2, 2]])
    # Right, found again, an image without it, right.
    found = BoxSet([0, 0, 1, 1], [0, 0, 0, 0], [[0, 0, 2, 2], [0, 0, 2, 2.1], [4, 4, 6, 6], [0, 0, 2, 2]])
    scores = [0.9, 0.8, 0.7, 0.6]
    assert average_precisions(found, scores, true, 2)[0] == pytest.approx((1 + 2 / 4) / 3)
    assert average_precisions(found, scores, true, 2, points=11)[0] == pytest.approx((4 * 1 + 3 * 0.5) / 11)
    assert np.isnan(average_precisions(found, scores, true, 2)[1])
    # What finds a difficult box does not count, nor does the box.
    marked = average_precisions(found, scores, true, 2, difficult=[True, False, False])[0]
    assert marked == pytest.approx((1 / 2) / 2)
    half = BoxSet([0], [0], [[0, 0, 2, 1]])
    assert average_precisions(half, [1.0], true, 1)[0] == 0  # an overlap of exactly one half is too little


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_it_is_the_area_of_its_definition(seed):
    found, scores, true, _ = drawn(seed)
    result = average_precisions(found, scores, true, CLASSES)
    for label in range(CLASSES):
        total = int((true.label == label).sum())
        if not total:
            assert np.isnan(result[label])
            continue
        used, curve, hits = set(), [], 0
        ranked = [i for i in np.argsort(-scores, kind="stable") if found.label[i] == label]
        for rank, i in enumerate(ranked, start=1):
            best, share = None, 0.5
            for j in np.flatnonzero((true.label == label) & (true.image == found.image[i])):
                cells = [
                    {(x, y) for x in range(a, c) for y in range(b, d)}
                    for a, b, c, d in map(lambda corners: corners.astype(int), (found.corners[i], true.corners[j]))
                ]
                union = len(cells[0] & cells[1]) / len(cells[0] | cells[1])
                best, share = (j, union) if union > share else (best, share)
            hits += best is not None and best not in used
            used.add(best)
            curve.append((hits / total, hits / rank))
        recalls = [k / total for k in range(1, total + 1)]
        area = sum(max([p for r, p in curve if r >= recall - 1e-12], default=0.0) for recall in recalls) / total
        assert result[label] == pytest.approx(area)
        eleven = average_precisions(found, scores, true, CLASSES, points=11)[label]
        assert abs(eleven - area) <= 0.1 + 1e-9
        assert 0 <= area <= 1


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_what_it_does_not_depend_on(seed):
    found, scores, true, rng = drawn(seed)
    result = average_precisions(found, scores, true, CLASSES)
    order = rng.permutation(len(scores))
    shuffled = BoxSet(1 - found.image[order], found.label[order], 2 * found.corners[order] + 1)
    mirrored = BoxSet(1 - true.image, true.label, 2 * true.corners + 1)
    np.testing.assert_allclose(average_precisions(shuffled, np.exp(scores[order]), mirrored, CLASSES), result)
    perfect = average_precisions(true, np.ones(len(true.label)), true, CLASSES)
    unique = len({(i, c, *box) for i, c, box in zip(true.image, true.label, map(tuple, true.corners), strict=True)})
    if unique == len(true.label):
        assert np.nanmin(perfect) == 1
    last = BoxSet(np.append(found.image, 0), np.append(found.label, 0), np.vstack([found.corners, [90, 90, 91, 91]]))
    np.testing.assert_allclose(average_precisions(last, np.append(scores, -1), true, CLASSES), result)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda box: average_precisions(box, [1.0], BoxSet([], [], []), 1), "there are no true boxes to find"),
        (lambda box: average_precisions(box, [1.0], box, 1, difficult=[True]), "there are no true boxes to find"),
        (lambda box: average_precisions(box, [1.0, 2.0], box, 1), "2 scores and 1 marks do not fit the boxes"),
        (lambda box: average_precisions(box, [1.0], box, 1, overlap=1.0), "overlap = 1.0"),
        (lambda box: BoxSet([0], [0], [[2, 0, 1, 1]]), "a box ends before it begins"),
        (lambda box: BoxSet([0, 1], [0], [[0, 0, 1, 1]]), r"images \[2\], labels \[1\]"),
    ],
)
def test_wrong_input_gets_one_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(BoxSet([0], [0], [[0, 0, 1, 1]]))
