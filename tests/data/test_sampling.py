"""Orders of the examples of a source: each once an epoch, in orders that favour no place and no neighbour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgejax.data.sampling import _SORTED, Sampler, _hashed
from bridgejax.data.tensorflow import import_tensorflow


def positions(sizes, batches, batch_size=32, weights=None, seed=7, first=0):
    tf = import_tensorflow()
    sampler = Sampler(sizes, weights, seed, batch_size)
    steps = range(first, first + batches)
    return np.concatenate([sampler(tf.constant(step, tf.int64))[0].numpy() for step in steps])


@pytest.mark.parametrize("size", [2, 3, 11, 44, 300])
def test_every_example_is_as_often_at_every_place_of_an_epoch(size):
    """The statistic of a uniform order is close to 1; where the examples keep to places it is many times that."""
    epochs = 3000 if size < 100 else 600
    orders = positions([size], 1, epochs * size).reshape(epochs, size)
    counts = np.stack([np.bincount(place, minlength=size) for place in orders.T])
    expected = epochs / size
    statistic = ((counts - expected) ** 2 / expected).sum() / (size - 1) ** 2
    assert statistic < (4.0 if size < 5 else 1.3)


def test_an_epoch_tells_nothing_of_the_next():
    orders = positions([40], 1, 2000 * 40).reshape(2000, 40)
    ranks = np.argsort(orders, axis=1)
    assert abs(np.corrcoef(ranks[:-1].ravel(), ranks[1:].ravel())[0, 1]) < 0.02


@given(size=st.integers(1, 50), other=st.integers(1, 50), batch_size=st.integers(1, 70), seed=st.integers(0, 2**62))
@settings(max_examples=20, deadline=None)
def test_a_source_with_a_share_shows_each_example_once_an_epoch(size, other, batch_size, seed):
    places = positions([size, other], -(-4 * (size + other) // batch_size), batch_size, [0.5, 0.5], seed)
    for start, count in ((0, size), (size, other)):
        own = places[(places >= start) & (places < start + count)] - start
        for epoch in np.split(own, range(count, len(own), count)):
            assert len(set(epoch)) == len(epoch)


@pytest.mark.parametrize("size", [5, _SORTED, _SORTED + 1])
def test_the_stream_does_not_depend_on_how_it_is_cut_into_batches(size):
    whole = positions([size], 2, 600)
    np.testing.assert_array_equal(np.concatenate([positions([size], 30, 40)]), whole)
    np.testing.assert_array_equal(positions([size], 10, 40, first=20), whole[800:])


def test_the_hash_is_the_published_one():
    """The first numbers of SplitMix64 with seed 1234567, as Vigna's program gives them."""
    tf = import_tensorflow()
    found = _hashed(tf, tf.constant(1234567, tf.uint64), tf.range(5, dtype=tf.int64)).numpy()
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert list(map(int, found)) == published
