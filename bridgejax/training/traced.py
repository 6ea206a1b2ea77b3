"""What a step changes about the model of its own trace: batch norms' mode, dtype, recomputed blocks, rows left out.

A step merges a model out of its arrays each time it is traced. What these functions do to that model, its class included, ends
with the trace: the user's model stays what it is.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.errors import UserError, nearest
from bridgejax.known_names import TRAINING_DTYPES
from bridgejax.models.batch_norm import BatchNorm

_ROW_MASK: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("row_mask", default=None)


def checked_dtype(dtype: Any) -> str:
    """Returns the name of a dtype to compute in; None is "float32".

    Raises:
      UserError: it is none of `TRAINING_DTYPES`.
    """
    try:
        name = "float32" if dtype is None else jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in TRAINING_DTYPES:
        choices = " or ".join(map(repr, TRAINING_DTYPES))
        raise UserError(f"training.dtype is {dtype!r}; it should be {choices}{nearest(name, TRAINING_DTYPES)}.")
    return name


def batch_norms(model: nnx.Module) -> list[nnx.BatchNorm]:
    """Returns a model's batch norms."""
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, nnx.BatchNorm)]


def set_mode(model: Any, batch_norm: str) -> None:
    """Puts a model into training mode; with `batch_norm` "frozen" its batch norms use and keep their running statistics."""
    model.train()
    if batch_norm == "frozen":
        for module in batch_norms(model):
            module.use_running_average = True


def compute_in(model: nnx.Module, dtype: str) -> None:
    """Makes a model compute in `dtype`; nothing changes for "float32".

    Its float32 parameters are cast, in an operation through which float32 gradients flow back, and modules that state a dtype
    to compute in get this one. Batch norms keep float32 parameters and statistics, compute in float32, and return the dtype
    of their input. A layer that states no dtype computes in that of its input: the head of a bridgejax classifier, whose
    pooled features are float32, in float32.
    """
    if dtype == "float32":
        return
    norms = batch_norms(model)
    kept = {id(value) for module in norms for value in vars(module).values()}
    for _, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Param) and id(node) not in kept and node[...].dtype == jnp.float32:
            node[...] = node[...].astype(dtype)
    module: Any
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            if not isinstance(module, BatchNorm):
                module.__class__ = _float32_inside(type(module))
        elif getattr(module, "dtype", None) is not None and jnp.issubdtype(module.dtype, jnp.floating):
            module.dtype = jnp.dtype(dtype)


def other_arrays(structure: Any, model: nnx.Module, before: dict[str, Any]) -> dict[str, Any]:
    """Returns what a call left of the arrays that are not trained, by dotted path.

    Args:
      structure: the model's `Structure`.
      model: after its call.
      before: the same arrays before it. Frozen parameters stay, whatever they were cast to, and nothing changes its dtype.
    """
    frozen = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    after = structure.arrays_of(model)
    return {name: value if name in frozen else _of_dtype(after[name], value) for name, value in before.items()}


def _of_dtype(array: Any, like: Any) -> Any:
    return array if array.dtype == like.dtype else array.astype(like.dtype)


def recompute_blocks(model: Any) -> None:
    """Makes each of a network's `blocks` keep its input alone for the backward pass, which computes the rest again.

    Raises:
      UserError: the model has no blocks.
    """
    blocks = getattr(model, "blocks", None)
    found = [block for block in blocks if isinstance(block, nnx.Module)] if isinstance(blocks, Iterable) else []
    if not found:
        raise UserError(
            f"training.remat is True, but {type(model).__name__} has no `blocks` to recompute; set it to False, or give "
            "the model its repeated parts as a list of that name."
        )
    for block in found:
        block.__class__ = _recomputed(type(block))


@functools.cache
def _float32_inside(kind: type[nnx.BatchNorm]) -> type[nnx.BatchNorm]:
    """Returns a batch norm like `kind` that computes in float32 and returns the dtype of its input."""

    class Float32Inside(kind):  # type: ignore[valid-type, misc]
        @functools.wraps(kind.__call__)
        def __call__(self, x: Any, *arguments: Any, **options: Any) -> Any:
            return super().__call__(x.astype(jnp.float32), *arguments, **options).astype(x.dtype)

    return Float32Inside


@functools.cache
def _recomputed(kind: type[nnx.Module]) -> type[nnx.Module]:
    """Returns a module like `kind` whose call is computed again in the backward pass."""
    call: Any = kind.__call__

    class Recomputed(kind):  # type: ignore[valid-type, misc]
        @functools.wraps(call)
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            def again(block: nnx.Module) -> Any:  # arguments of every kind are kept as they are
                return call(block, *arguments, **options)

            return nnx.remat(again, policy=jax.checkpoint_policies.nothing_saveable)(self)

    return Recomputed


@functools.cache
def _masked(kind: type[nnx.BatchNorm]) -> type[nnx.BatchNorm]:
    """Returns a batch norm like `kind` whose batch statistics leave out the rows that the step's mask leaves out."""

    class Masked(kind):  # type: ignore[valid-type, misc]
        def __call__(self, x: Any, use_running_average: bool | None = None, *, mask: Any = None) -> Any:
            rows = _ROW_MASK.get()
            if mask is not None or rows is None or x.shape[0] != rows.shape[0]:
                return super().__call__(x, use_running_average, mask=mask)
            some, before = jnp.any(rows > 0), (self.mean[...], self.var[...])
            # Of no rows at all there are no statistics: those of the padding keep all numbers finite, and do not stay.
            counts = ((rows > 0) | ~some).reshape(rows.shape + (1,) * (x.ndim - 1))
            y = super().__call__(x, use_running_average, mask=counts)
            self.mean[...] = jnp.where(some, self.mean[...], before[0])
            self.var[...] = jnp.where(some, self.var[...], before[1])
            return y

    return Masked


def call_masked(model: Any, images: jax.Array, mask: jax.Array | None) -> Any:
    """Calls a model so that padding rows stay out of its batch statistics.

    A model has no argument for that, so its batch norms are given a class that knows the mask.
    """
    if mask is None:
        return model(images)
    for module in batch_norms(model):
        if "mask" in inspect.signature(type(module).__call__).parameters:
            module.__class__ = _masked(type(module))
    token = _ROW_MASK.set(mask)
    try:
        return model(images)
    finally:
        _ROW_MASK.reset(token)
