"""How a training step in half precision is asked for."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np


def step_has_dtype() -> bool:
    """Tells whether `make_train_step` takes the dtype of arithmetic."""
    from bridgejax.training import make_train_step

    return "dtype" in inspect.signature(make_train_step).parameters


def dtype_options(dtype: str) -> dict[str, str]:
    """Returns the arguments of `make_train_step` that make it compute in `dtype`."""
    return {"dtype": dtype} if step_has_dtype() and dtype != "float32" else {}


def prepared(model: Any, pixels: np.ndarray, dtype: str) -> tuple[Any, Any]:
    """Returns a model and a batch of images with which a step computes in `dtype`.

    Args:
      model: a classifier with float32 weights.
      pixels: uint8 [n, h, w, 3].
      dtype: "float32" or "bfloat16".

    Returns:
      Both as they are where the step itself takes the dtype, or none is needed. Else the weights in `dtype`, their optimiser's
      state with them, and normalised images in `dtype`: what the library can do without that argument.
    """
    if dtype == "float32" or step_has_dtype():
        return model, pixels
    return in_dtype(model, dtype), normalised(pixels, model, dtype)


def in_dtype(model: Any, dtype: str) -> Any:
    """Returns a copy of a model whose floating arrays are in `dtype`."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    graph, state = nnx.split(model)
    cast = jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, state)
    return nnx.merge(graph, cast)


def normalised(pixels: np.ndarray, model: Any, dtype: str) -> Any:
    """Returns pixels, uint8 [n, h, w, 3], as the model takes them, in `dtype`."""
    import jax.numpy as jnp

    mean, std = (jnp.asarray(values, jnp.float32) for values in (model.preprocessing.mean, model.preprocessing.std))
    return ((jnp.asarray(pixels, jnp.float32) / 255 - mean) / std).astype(dtype)
