"""The one jitted function from token ids and seeds to images."""

from __future__ import annotations

from typing import TypedDict

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bridgejax.compilation import CachedFunction, PrefetchedProgram
from bridgejax.diffusion.networks import Networks
from bridgejax.diffusion.schedulers import Carry, Scheduler, Tables


class SamplerInputs(TypedDict):
    """What the sampler takes beside the networks."""

    # ids, negative_ids: one int32 [n, 77] per text encoder; the negative ones may have a single row, or be absent.
    ids: list[jax.Array]
    negative_ids: list[jax.Array] | None
    keys: jax.Array  # threefry keys [n]
    # tables, first, calls: the scheduler's tables and the range of calls to make
    tables: Tables
    first: jax.Array
    calls: jax.Array
    guidance: jax.Array  # float32 scalar
    latents: jax.Array | None  # float32 [n, h, w, c] or None, unit noise in place of that of the keys
    step_noise: jax.Array | None  # float32 [steps, n, h, w, c] or None
    init_images: jax.Array | None  # float32 [n, H, W, 3] in [0, 1] or None


def initial_noise(keys: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """Returns unit normal noise, float32 [n, *shape]; row i depends on key i alone."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def step_noise(keys: jax.Array, index: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """Returns the noise of stochastic step `index`, float32 [n, *shape], from keys folded with 1 + index."""
    return initial_noise(jax.vmap(lambda key: jax.random.fold_in(key, 1 + index))(keys), shape)


def guided(conditional: jax.Array, unconditional: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns unconditional + scale · (conditional − unconditional) (Ho & Salimans 2022, as in Stable Diffusion)."""
    return unconditional + scale * (conditional - unconditional)


def make_sampler(graph: nnx.GraphDef[Networks], prefetched: PrefetchedProgram | None = None) -> CachedFunction:
    """Returns the jitted sampler of networks with this graph definition.

    The returned function takes (state, inputs, *, scheduler, shape, guide, zero_negative). Only the keyword
    arguments, the shapes and which optional inputs are present are compiled in.
    """

    def sample(
        state: nnx.State,
        inputs: SamplerInputs,
        *,
        scheduler: Scheduler,
        shape: tuple[int, int, int],
        guide: bool,
        zero_negative: bool,
    ) -> jax.Array:
        networks = nnx.merge(graph, state)
        tables = inputs["tables"]
        first, keys = inputs["first"], inputs["keys"]
        batch, factor = keys.shape[0], networks.vae.factor
        size = (shape[0] * factor, shape[1] * factor)

        ids, negative_ids = inputs["ids"], inputs["negative_ids"]
        if guide and negative_ids is not None:
            ids = [_interleave(empty, full) for empty, full in zip(negative_ids, ids, strict=True)]
        context, pooled = networks.encode_text(ids)
        if guide and zero_negative:
            context = _interleave(jnp.zeros_like(context), context)
            pooled = None if pooled is None else _interleave(jnp.zeros_like(pooled), pooled)

        noise = initial_noise(keys, shape) if inputs["latents"] is None else inputs["latents"]
        init = None if inputs["init_images"] is None else networks.encode(inputs["init_images"])
        carry = scheduler.start(tables, first, noise, init)

        def call(index: jax.Array, carry: Carry) -> Carry:
            latents = scheduler.model_input(tables, index, carry)
            if guide:
                latents = jnp.repeat(latents, 2, axis=0)
            output = networks.predict(latents, tables["timesteps"][index], context, pooled, size, inputs["guidance"])
            if guide:
                pairs = output.reshape(batch, 2, *output.shape[1:])
                output = guided(pairs[:, 1], pairs[:, 0], inputs["guidance"])
            extra = None
            if scheduler.stochastic:
                given = inputs["step_noise"]
                extra = step_noise(keys, index, shape) if given is None else given[index]
            return scheduler.step(tables, index, carry, output, extra)

        carry = lax.fori_loop(first, inputs["calls"], call, carry)
        return networks.decode(carry["latents"])

    return CachedFunction(
        sample, graph, static_argnames=("scheduler", "shape", "guide", "zero_negative"), prefetched=prefetched
    )


def _interleave(empty: jax.Array, full: jax.Array) -> jax.Array:
    """Returns [2n, ...]: empty, full, empty, full, …; pairs stay together when the batch is split over devices."""
    empty = jnp.broadcast_to(empty, full.shape)
    return jnp.stack([empty, full], axis=1).reshape(2 * full.shape[0], *full.shape[1:])
