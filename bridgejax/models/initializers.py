"""Initial values of classifiers' parameters: distributions, and the tables that say which parameter gets which."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Draw = Callable[[jax.Array, tuple[int, ...]], jax.Array]


class Initializer(NamedTuple):
    """One line of a table of initial values."""

    pattern: str  # regular expression that ends where the dotted path of a parameter ends
    draw: Draw  # (key, shape) → float32


def ones(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns ones."""
    return jnp.ones(shape, jnp.float32)


def zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns zeros."""
    return jnp.zeros(shape, jnp.float32)


def normal(deviation: float) -> Draw:
    """Draws from a normal distribution with mean 0."""
    return lambda key, shape: deviation * jax.random.normal(key, shape, jnp.float32)


def uniform(bound: float) -> Draw:
    """Draws from a uniform distribution in ±bound."""
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def he_fan_out(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns a dense convolution's kernel [k, k, in, out]: normal with variance 2 / (k² · out) (He et al. 2015)."""
    return normal(math.sqrt(2.0 / (shape[0] * shape[1] * shape[3])))(key, shape)


def he_depthwise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns a depthwise kernel [k, k, 1, c]: normal with variance 2 / k², since each input reaches one channel."""
    return normal(math.sqrt(2.0 / (shape[0] * shape[1])))(key, shape)


NORM_INITIALIZERS = (Initializer(r"(scale|var|layer_scale\d)", ones), Initializer(r"(bias|mean)", zeros))
