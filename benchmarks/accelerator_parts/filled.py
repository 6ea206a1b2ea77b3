"""Networks with random weights, the same in every process and on every device, without any file."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

_POOL = 1_048_573  # a prime, so that rows and columns of weights do not share its period
_STEP = 100_003  # from where one array begins in the pool to where the next one does


def filled(network: Any, seed: int = 0) -> Any:
    """Returns a network whose arrays are random and of usual size, on the default device.

    Kernels have a standard deviation of 1 / sqrt(fan in), embeddings and vectors 0.02, around 1 where they are the scale or
    the variance of a norm. All values come from one pool of normal numbers that NumPy draws, over and over from another place:
    to draw them on the device would take a program per shape, which compiles longer than gigabytes take to get there.

    Args:
      network: an nnx module of shapes (`nnx.eval_shape`, or built with `ShapesOnly`).
      seed: of the pool.
    """

    pool = np.tile(np.random.default_rng(seed).standard_normal(_POOL, np.float32), 2)

    def array(number: int, path: Any, leaf: Any) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        name = next(str(step.key) for step in reversed(path) if isinstance(step, jax.tree_util.DictKey))
        is_kernel = len(leaf.shape) > 1 and "embedding" not in name
        spread = 1 / math.sqrt(math.prod(leaf.shape[:-1])) if is_kernel else 0.02
        centre = 1.0 if name in ("scale", "var") else 0.0
        first = number * _STEP % _POOL
        values = pool[first : first + min(_POOL, math.prod(leaf.shape))] * np.float32(spread) + np.float32(centre)
        return jax.device_put(np.resize(values.astype(leaf.dtype), leaf.shape))

    graph, state = nnx.split(network)
    leaves, tree = jax.tree_util.tree_flatten_with_path(state)
    arrays = [array(number, path, leaf) for number, (path, leaf) in enumerate(leaves)]
    return nnx.merge(graph, jax.tree.unflatten(tree, arrays))
