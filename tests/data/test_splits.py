"""Few-shot splits: exact, disjoint, repeatable, and never through a group of near duplicates."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgejax.data.splits import split_pool
from bridgejax.errors import UserError

NAMES = ("a", "b c", "ü")


@st.composite
def pools(draw):
    """Images with labels and groups; a group lies within one class."""
    labels, groups = [], []
    for label in range(len(NAMES)):
        for group in range(draw(st.integers(4, 9))):
            for _ in range(draw(st.integers(1, 3))):
                labels.append(label)
                groups.append(f"{label}-{group}")
    order = draw(st.permutations(range(len(labels))))
    return [labels[i] for i in order], [groups[i] for i in order], [f"id{i}" for i in order]


@settings(max_examples=60, deadline=None)
@given(pools(), st.integers(1, 3), st.integers(0, 2), st.integers(0, 5))
def test_counts_are_exact_parts_disjoint_and_groups_whole(pool, shots, validation, seed):
    labels, groups, ids = pool
    validation = min(validation, shots - 1)
    options = {"shots": shots, "validation_per_class": validation, "seed": seed, "test_from_pool": True, "where": "x"}
    found = split_pool(labels, ids, groups, NAMES, **options)
    for label in range(len(NAMES)):
        assert sum(labels[i] == label for i in found.train) == shots - validation
        assert sum(labels[i] == label for i in found.validation) == validation
        assert any(labels[i] == label for i in found.test)
    parts = [found.train, found.validation, found.test]
    shown = [{groups[i] for i in part} for part in parts]
    for i, left in enumerate(shown):
        for right in shown[i + 1 :]:
            assert not left & right
    assert {g for g in groups if all(g not in part for part in shown)} == set()
    # Neither the order of the images nor that of the classes matters.
    back = [2 - label for label in labels[::-1]]
    other = split_pool(back, ids[::-1], groups[::-1], NAMES[::-1], **options)
    for part, again in zip(parts, (other.train, other.validation, other.test), strict=True):
        assert {ids[i] for i in part} == {ids[::-1][i] for i in again}


def test_fewer_shots_are_part_of_more_and_seeds_differ():
    labels, ids = [0] * 20 + [1] * 20, [f"{i:02}" for i in range(40)]
    options = {"validation_per_class": 0, "test_from_pool": True, "where": "x"}
    splits = {
        (shots, seed): split_pool(labels, ids, ids, "ab", shots=shots, seed=seed, **options)
        for shots in (1, 4)
        for seed in (0, 1)
    }
    assert set(splits[1, 0].train) < set(splits[4, 0].train)
    assert splits[4, 0].train != splits[4, 1].train


def test_more_shots_than_three_quarters_of_a_class_are_more_than_all_of_it():
    labels, ids = [0] * 9 + [1] * 20, [f"{i:02}" for i in range(29)]
    options = {"validation_per_class": 0, "seed": 0, "test_from_pool": True, "where": "x"}
    seven, eight, every = (split_pool(labels, ids, ids, "ab", shots=shots, **options) for shots in (7, 8, None))
    assert set(seven.train) < set(every.train)
    assert set(seven.train) < set(eight.train)
    assert [sum(labels[i] == 0 for i in found.train) for found in (eight, every)] == [8, 7]


def test_without_shots_a_quarter_is_kept_for_testing_or_nothing_of_a_fixed_split():
    labels, ids = [0] * 20 + [1] * 8, [f"{i:02}" for i in range(28)]
    options = {"shots": None, "validation_per_class": 2, "seed": 0, "where": "x"}
    found = split_pool(labels, ids, ids, "ab", test_from_pool=True, **options)
    assert (len(found.train), len(found.validation), len(found.test)) == (13 + 4, 4, 5 + 2)
    fixed = split_pool(labels, ids, ids, "ab", test_from_pool=False, **options)
    assert (len(fixed.train), len(fixed.validation), len(fixed.test)) == (18 + 6, 4, 0)


@pytest.mark.parametrize(
    ("shots", "validation", "words"),
    [(4, 0, "'b'.*3 images.*shots=4"), (3, 0, "leave one"), (1, 1, "below"), (0, 0, "shots=0")],
)
def test_too_few_images_name_the_class_what_it_has_and_what_was_asked(shots, validation, words):
    with pytest.raises(UserError, match=words):
        split_pool(
            [0] * 9 + [1] * 3,
            [str(i) for i in range(12)],
            range(12),
            "ab",
            shots=shots,
            validation_per_class=validation,
            seed=0,
            test_from_pool=True,
            where="x",
        )
