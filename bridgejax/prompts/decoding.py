"""Sampling from a language model: which tokens may follow, and the jitted loop that draws them row by row.

Filters are those of Fan et al. 2018 (top-k) and Holtzman et al. 2020 (top-p), in the order temperature, top-k, top-p.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bridgejax.models.t5 import T5, KeysValues

# Position, last tokens [n], which texts have ended [n], tokens drawn [n, length], the decoder's cache.
_Carry: TypeAlias = tuple[jax.Array, jax.Array, jax.Array, jax.Array, list[KeysValues]]


class Filters(NamedTuple):
    """What narrows the choice of the next token; scalars, so that other values do not recompile."""

    temperature: jax.Array  # float32, above 0
    top_k: jax.Array  # int32, at least 1
    top_p: jax.Array  # float32 in (0, 1]


class Source(NamedTuple):
    """Encoded source texts, one for each row."""

    seen: list[KeysValues]  # for each block of the decoder
    mask: jax.Array  # float32 [n, 1, 1, s]


def kept_tokens(logits: jax.Array, filters: Filters, most: int) -> tuple[jax.Array, jax.Array]:
    """Returns the likeliest tokens of each row and which of them the filters keep.

    Args:
      logits: float32 [n, vocabulary].
      filters: see there; `top_k` is at most `most`.
      most: how many tokens are looked at, static.

    Returns:
      Scores, float32 [n, most], falling along each row, -inf for tokens that are not kept; and their ids, int32 [n, most].
    """
    scores, ids = lax.top_k(logits / filters.temperature, most)
    least = lax.dynamic_slice_in_dim(scores, filters.top_k - 1, 1, axis=1)
    scores = jnp.where(scores < least, -jnp.inf, scores)
    # What a token and all less likely ones have together, added from the least likely on as transformers adds it.
    together = lax.cumsum(jax.nn.softmax(scores), axis=1, reverse=True)
    dropped = (together <= 1.0 - filters.top_p) & (jnp.arange(most) > 0)
    return jnp.where(dropped & (filters.top_p < 1.0), -jnp.inf, scores), ids


def _draw(scores: jax.Array, ids: jax.Array, keys: jax.Array) -> jax.Array:
    """Returns one id for each row, int32 [n], drawn by Gumbel noise that belongs to (key of the row, id) alone.

    So neither the other rows nor the order of nearly equal scores, which rounding decides, has a say in the noise.
    """
    mixed = jax.vmap(lambda key, row: jax.vmap(lambda token: jax.random.fold_in(key, token))(row))(keys, ids)
    # The words of a folded key are as random as any: one serves as 24 bits of a uniform number within (0, 1).
    uniform = ((jax.random.key_data(mixed)[..., 0] >> 8).astype(jnp.float32) + 0.5) * 2.0**-24
    noise = -jnp.log(-jnp.log(uniform))
    return jnp.take_along_axis(ids, jnp.argmax(scores + noise, axis=1)[:, None], axis=1)[:, 0]


@functools.partial(jax.jit, static_argnames="graph")
def encode(graph: nnx.GraphDef[T5], state: nnx.State, ids: jax.Array, rows: jax.Array) -> Source:
    """Encodes texts, int32 [u, s], and returns them in the order of `rows`, int32 [n]."""
    seen, mask = nnx.merge(graph, state).encode(ids)
    return Source([KeysValues(each.keys[rows], each.values[rows]) for each in seen], mask[rows])


@functools.partial(jax.jit, static_argnames=("graph", "length", "most"))
def decode(
    graph: nnx.GraphDef[T5],
    state: nnx.State,
    source: Source,
    keys: jax.Array,
    real: jax.Array,
    limit: jax.Array,
    filters: Filters,
    *,
    length: int,
    most: int,
) -> jax.Array:
    """Draws texts token by token until all have ended.

    Args:
      graph, state: of the model.
      source: of n texts.
      keys: threefry keys [n]; the draw at position t depends on (key, t) and the row's logits alone.
      real: bool [n]; rows that only fill the shape are False and are not waited for.
      limit: int32 scalar, tokens of a text, at most `length`.
      filters: what narrows the choice.
      length: of the cache, static.
      most: see `kept_tokens`, static.

    Returns:
      int32 [n, length]: the tokens drawn, pad tokens after the end token.
    """
    model = nnx.merge(graph, state)
    config, rows = model.config, keys.shape[0]
    bias = model.decoder.bias(length)
    ends = jnp.asarray(config.end_ids)

    def go_on(carry: _Carry) -> jax.Array:
        return (carry[0] < limit) & ~jnp.all(carry[2])

    def step(carry: _Carry) -> _Carry:
        position, last, ended, drawn, cache = carry
        here = lax.dynamic_slice_in_dim(bias, position, 1, axis=2)
        logits, cache = model.decode(last[:, None], source.seen, source.mask, cache, here, position)
        scores, ids = kept_tokens(logits[:, 0], filters, most)
        token = _draw(scores, ids, jax.vmap(jax.random.fold_in, (0, None))(keys, position))
        token = jnp.where(ended, config.pad_id, token)
        drawn = lax.dynamic_update_slice(drawn, token[:, None], (0, position))
        return position + 1, token, ended | jnp.isin(token, ends), drawn, cache

    start = jnp.full(rows, config.start_id, jnp.int32)
    drawn = jnp.full((rows, length), config.pad_id, jnp.int32)
    return lax.while_loop(go_on, step, (jnp.int32(0), start, ~real, drawn, model.empty_cache(rows, length)))[3]
