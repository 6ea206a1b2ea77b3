"""Intervals: what they cover, what they are paired by, and where there are none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bridgejax.report.statistics import PairedResults, true_classes
from bridgejax.studies.run_results import ACCURACY, MEAN_PER_CLASS, RunResultRecord


def make_run(correct, labels, ids=None, classes=3):
    correct, labels = np.asarray(correct), np.asarray(labels)
    per_class = [correct[labels == c].mean() for c in range(classes) if (labels == c).any()]
    return RunResultRecord(
        arm="a",
        seed=0,
        test_accuracy=float(correct.mean()),
        test_mean_per_class_accuracy=float(np.mean(per_class)),
        test_ids=tuple(ids) if ids is not None else tuple(f"{c}/{i}" for i, c in enumerate(labels)),
        test_labels=tuple(labels.tolist()),
        correct=tuple(correct.tolist()),
    )


def random_study(seeds, rng, shift=0.0, seed_sd=0.1, images=(30, 12, 60)):
    labels = np.repeat(np.arange(len(images)), images)
    hard, effect = rng.normal(0.8, 1, len(labels)), rng.normal(shift, 0.5, len(labels))
    runs = {}
    for seed in range(seeds):
        own, luck = rng.normal(0, 0.5, len(labels)), rng.normal(0, seed_sd)
        for arm in (0, 1):
            score = hard + own + arm * (effect + luck) + rng.normal(0, 0.5, len(labels))
            runs["ab"[arm], seed] = make_run(score > 0, labels)
    return runs


@pytest.mark.parametrize("metric", [MEAN_PER_CLASS, ACCURACY])
def test_the_interval_covers_the_true_difference_about_as_often_as_it_says(metric):
    rng = np.random.default_rng(0)
    study = [PairedResults.from_runs(random_study(8, rng), replicates=400).difference("b", "a", metric) for _ in range(120)]
    truth = np.mean([found.mean for found in study])
    covered = np.mean([found.low <= truth <= found.high for found in study])
    assert 0.88 <= covered <= 1.0


@pytest.mark.parametrize("seeds", [3, 5])
def test_few_seeds_that_differ_much_have_intervals_wide_enough(seeds):
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(300):
        values = {arm: rng.normal(0.5, 0.05, seeds) for arm in "ab"}
        runs = {(arm, k): RunResultRecord(arm, k, value, value) for arm in "ab" for k, value in enumerate(values[arm])}
        found = PairedResults.from_runs(runs, replicates=400).difference("b", "a")
        covered.append(found.low <= 0 <= found.high)
    assert 0.91 <= np.mean(covered) <= 0.99


def test_pairing_makes_the_difference_of_alike_arms_sure():
    labels = np.repeat([0, 1, 2], [20, 5, 40])
    rng = np.random.default_rng(1)
    runs = {}
    for seed in range(4):
        right = rng.random(len(labels)) < 0.7
        runs["a", seed] = runs["b", seed] = make_run(right, labels)
    study = PairedResults.from_runs(runs)
    alike = study.difference("b", "a")
    assert (alike.mean, alike.low, alike.high) == (0, 0, 0)
    level = study.mean("a")
    assert level.low < level.mean < level.high


def test_images_are_matched_by_id_not_by_place():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2], [20, 5, 40])
    runs = {}
    for seed in range(3):
        right, order = rng.random(len(labels)) < 0.7, rng.permutation(len(labels))
        ids = np.asarray([f"image-{i}" for i in range(len(labels))])
        runs["a", seed] = make_run(right, labels, ids)
        runs["b", seed] = make_run(right[order], labels[order], ids[order])
    found = PairedResults.from_runs(runs).difference("b", "a")
    assert found.low == pytest.approx(0, abs=1e-6)
    assert found.high == pytest.approx(0, abs=1e-6)


def test_seeds_that_share_their_test_images_are_not_more_test_images():
    """Runs that differ by nothing but a new name for the seed carry no more evidence."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [50, 50])
    a, b = rng.random(100) < 0.6, rng.random(100) < 0.7
    width = []
    for seeds in (2, 8):
        runs = {("a", seed): make_run(a, labels, classes=2) for seed in range(seeds)}
        runs |= {("b", seed): make_run(b, labels, classes=2) for seed in range(seeds)}
        found = PairedResults.from_runs(runs).difference("b", "a")
        width.append(found.high - found.low)
    assert width[1] == pytest.approx(width[0], rel=0.1)


def test_a_difference_uses_the_seeds_that_both_arms_have():
    labels = np.repeat([0, 1, 2], [10, 10, 10])
    runs = {("a", seed): make_run([True] * 15 + [False] * 15, labels) for seed in range(3)}
    runs["b", 1] = make_run([True] * 30, labels)
    runs["b", 2] = make_run([True] * 30, labels)
    study = PairedResults.from_runs(runs)
    assert study.difference("b", "a").seeds == 2
    assert study.difference("b", "a").mean == pytest.approx(0.5)
    assert study.mean("a").seeds == 3


def test_one_seed_has_no_interval():
    found = PairedResults.from_runs(random_study(1, np.random.default_rng(4))).difference("b", "a")
    assert (found.low, found.high, found.sd, found.seeds) == (None, None, None, 1)


def test_without_ids_the_interval_is_over_seeds_alone():
    runs = {("a", seed): RunResultRecord("a", seed, 0.5 + 0.1 * seed, 0.4 + 0.1 * seed) for seed in range(3)}
    found = PairedResults.from_runs(runs).mean("a")
    assert found.mean == pytest.approx(0.5)
    student = 4.303 * 0.1 / np.sqrt(3)  # t of 2 degrees of freedom
    assert (found.low, found.high) == pytest.approx((0.5 - student, 0.5 + student), abs=0.03)


def test_ids_that_mean_another_image_in_another_seed_are_kept_apart():
    runs = {}
    for seed, labels in enumerate(([0, 0, 1, 1], [1, 1, 0, 0])):
        runs["a", seed] = make_run([True, False, True, True], labels, ids=["0", "1", "2", "3"], classes=2)
    study = PairedResults.from_runs(runs)
    assert len(study.strata) == 8
    assert study.mean("a").mean == pytest.approx(0.75)


def test_labels_from_class_folders():
    ids, classes = ("x/bird/1.png", "x/fish/2.png"), ("bird", "fish")
    run = RunResultRecord("a", 0, 0.5, 0.5, test_ids=ids, classes=classes, confusion=((1, 0), (1, 0)))
    assert true_classes(run) == [0, 1]
    assert true_classes(dataclasses.replace(run, confusion=((2, 0), (0, 0)))) is None
    assert true_classes(dataclasses.replace(run, test_ids=("1", "2"))) is None
    assert true_classes(dataclasses.replace(run, test_labels=(1, 0))) == [1, 0]
