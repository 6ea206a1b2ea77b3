"""A stream for several runs gives each what it would have had alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bridgejax.data import eval_batches, shared_eval_batches, shared_train_batches, train_batches
from bridgejax.data.examples import Examples
from bridgejax.data.images import encode_png

SIZES = {"batch_size": 4, "image_size": 8}


def pictures(n: int, seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    images = tuple(encode_png(rng.integers(0, 256, (12, 9 + k, 3), dtype=np.uint8)) for k in range(n))
    return Examples(images, rng.integers(0, 3, n).astype(np.int32), tuple(f"{seed}-{k}" for k in range(n)))


@pytest.fixture(scope="module")
def runs():
    shared = pictures(7, 9)
    return [[pictures(5, 0), shared], [pictures(6, 1), shared], [pictures(5, 2), shared]]


@pytest.mark.parametrize("memory_bytes", [1 << 30, 0])
@pytest.mark.parametrize(("weights", "augment", "start"), [(None, True, 0), ([0.5, 0.5], True, 3), (None, False, 1)])
def test_each_run_gets_its_own_batches(runs, memory_bytes, weights, augment, start):
    options = {**SIZES, "weights": weights, "augment": augment, "start_step": start, "repeats": 1 + start}
    together = shared_train_batches(runs, seeds=[3, 4, 5], memory_bytes=memory_bytes, **options)
    given = list(itertools.islice(zip(*together, strict=True), 5))
    for number, (sources, seed) in enumerate(zip(runs, (3, 4, 5), strict=True)):
        alone = train_batches(sources, seed=seed, **options)
        for step, expected in enumerate(itertools.islice(alone, 5)):
            found = given[step][number]
            assert found.keys() == expected.keys()
            for key in expected:
                np.testing.assert_array_equal(found[key], expected[key], err_msg=key)


def test_runs_may_draw_apart_and_end_at_different_steps(runs):
    streams = shared_train_batches(runs, seeds=[3, 4, 5], weights=None, **SIZES)
    first = list(itertools.islice(streams[0], 4))
    streams[2].close()
    second = list(itertools.islice(streams[1], 6))
    for batches, sources, seed in ((first, runs[0], 3), (second, runs[1], 4)):
        alone = train_batches(sources, seed=seed, weights=None, **SIZES)
        for found, expected in zip(batches, alone, strict=False):
            np.testing.assert_array_equal(found["image"], expected["image"])


@pytest.mark.parametrize("memory_bytes", [1 << 30, 0])
def test_each_run_gets_its_own_evaluation(memory_bytes):
    parts = [pictures(9, 0), pictures(4, 1), pictures(9, 0)]
    made = shared_eval_batches(parts, crop=0.9, memory_bytes=memory_bytes, **SIZES)
    for part, found in zip(parts, made, strict=True):
        expected = list(eval_batches(part, crop=0.9, **SIZES))
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            for key in other:
                np.testing.assert_array_equal(one[key], other[key], err_msg=key)
    assert made[0] is made[2]  # the same images: made once, held once
