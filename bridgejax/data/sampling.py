"""Which example is where in the endless stream: a closed form of (seed, step), so that any step can be had at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from bridgejax.data.tensorflow import import_tensorflow
from bridgejax.errors import UserError
from bridgejax.identity import derive_seed

if TYPE_CHECKING:
    from tensorflow import Tensor

ORDERS = 2  # counts the changes of what is where in the stream: a run goes on only with the orders that it began with
_RATIO_BITS = 30
_SORTED = 1 << 10  # examples of a source up to which sorting them takes less time than shuffling each by itself
DRAWS = 5  # uniform numbers per image: area, ratio, row, column, mirror


class Sampler:
    """Places of the stream → positions in the concatenation of the sources, as TensorFlow operations.

    Each source is passed through in a new order every epoch, without repeats within an epoch. With shares, source s
    takes every place p with floor((p + 1) r) > floor(p r) of those that the sources before it left, r being its share of
    what is left: any stretch of places holds its share to within one image per source.

    Args:
      sizes: examples per source.
      weights: share of each source, any positive scale; None draws uniformly from the union.
      seed: of orders and augmentations.
      batch_size: images per step.
      view: another number gives the same positions and other uniform numbers.
      repeats: how many places in a row show an example.

    Raises:
      UserError: there are no examples, or the shares do not fit the sources.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float] | None,
        seed: int,
        batch_size: int,
        view: int = 0,
        repeats: int = 1,
    ):
        if weights is None:
            if sum(sizes) < 1:
                raise UserError("there are no training images; give at least one source with images.")
            parts = [(0, sum(sizes), 1.0)]
        else:
            _check_weights(sizes, weights)
            parts = [(sum(sizes[:s]), sizes[s], float(weights[s])) for s in range(len(sizes)) if weights[s] > 0]
        tf = import_tensorflow()
        orders = [derive_seed(seed, "order", number) for number in range(len(parts))]
        self._seeds = tf.constant([derive_seed(seed, "augment", *([view] if view else [])), *orders], tf.int64)
        self._plan = _plan(tuple(parts), batch_size, repeats)

    def __call__(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Returns positions, int64 [b], and uniform numbers in [0, 1), float32 [b, DRAWS], of a step (int64 scalar)."""
        return self._plan(step, self._seeds)


@functools.cache
def _plan(
    parts: tuple[tuple[int, int, float], ...], batch_size: int, repeats: int
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Returns the graph of all samplers of such parts (start, size and share): step and seeds → positions and draws."""
    tf = import_tensorflow()

    def plan(step: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        places = (step * batch_size + tf.range(batch_size, dtype=tf.int64)) // repeats
        free = tf.ones([batch_size], tf.bool)
        positions = tf.zeros([batch_size], tf.int64)
        left = sum(share for _, _, share in parts)
        for number, (start, size, share) in enumerate(parts):
            last = number == len(parts) - 1
            ratio = 1 << _RATIO_BITS if last else round(share / left * (1 << _RATIO_BITS))
            before = tf.bitwise.right_shift(places * ratio, tf.constant(_RATIO_BITS, tf.int64))
            after = tf.bitwise.right_shift((places + 1) * ratio, tf.constant(_RATIO_BITS, tf.int64))
            mine = free & (after > before)
            shown = _ordered if size <= _SORTED else _shuffled
            positions = tf.where(mine, start + shown(tf, size, before, seeds[1 + number]), positions)
            # The places left to the others are numbered anew.
            places = places - before
            free = free & ~mine
            left -= share
        draws = tf.random.stateless_uniform([batch_size, DRAWS], seed=tf.stack([seeds[0], step]), alg="philox")
        return positions, draws

    graph: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = tf.function(plan, autograph=False)
    return graph


def _ordered(tf: ModuleType, size: int, turns: Tensor, seed: Tensor) -> Tensor:
    """Returns which of `size` examples each turn, int64 [b], in order, shows: all of them once an epoch, in the epoch's order.

    That is the order of a random key of each; work grows with the size.
    """
    count = turns.shape[0] // size + 2  # so many epochs b turns meet at most
    first = turns[0] // size
    streams = _hashed(tf, tf.bitcast(seed, tf.uint64), first + tf.range(count, dtype=tf.int64))
    keys = _hashed(tf, streams[:, None], tf.range(size, dtype=tf.int64))
    # TensorFlow sorts signed numbers.
    order = tf.math.top_k(tf.bitcast(tf.bitwise.right_shift(keys, tf.constant(1, tf.uint64)), tf.int64), size).indices
    return tf.cast(tf.gather(tf.reshape(order, [-1]), turns - first * size), tf.int64)


def _hashed(tf: ModuleType, seed: Tensor, numbers: Tensor) -> Tensor:
    """Returns number k, uint64, of SplitMix64 (Steele, Lea and Flood 2014) with a seed, uint64, for each k, int64."""
    state = seed + (tf.bitcast(numbers, tf.uint64) + 1) * tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, tf.constant(shift, tf.uint64)))
        state = mixed * tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, tf.constant(31, tf.uint64)))


def _shuffled(tf: ModuleType, size: int, turns: Tensor, seed: Tensor) -> Tensor:
    """Returns what `_ordered` does, in another order; work grows with b alone, and as the size falls below 2¹⁶."""
    epochs, within = turns // size, turns % size
    seeds = tf.stack([tf.zeros_like(epochs) + seed, epochs, epochs * 0], 1)
    # The raw operation: `tf.random.experimental.index_shuffle` mangles a seed per element.
    return tf.raw_ops.RandomIndexShuffle(index=within, seed=seeds, max_index=tf.constant(size - 1, tf.int64), rounds=4)


def _check_weights(sizes: Sequence[int], weights: Sequence[float]) -> None:
    if len(weights) != len(sizes):
        raise UserError(f"{len(weights)} sampling shares are given for {len(sizes)} sources; give one per source.")
    if any(not np.isfinite(weight) or weight < 0 for weight in weights) or not sum(weights) > 0:
        raise UserError(f"the sampling shares {list(weights)} must be at least 0 and not all 0.")
    for size, weight in zip(sizes, weights, strict=True):
        if weight > 0 and size < 1:
            raise UserError(f"a source without images has the sampling share {weight}; give it images or the share 0.")
