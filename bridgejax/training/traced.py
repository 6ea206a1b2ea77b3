"""What a step changes about the model of its own trace: batch norms' mode, dtype, recomputed blocks, rows left out.

A step merges a model out of its arrays each time it is traced. What is done to that model here ends with the trace: the user's
model stays what it is.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.errors import UserError, choices
from bridgejax.known_names import TRAINING_DTYPES
from bridgejax.models.batch_norm import BatchNorm
from bridgejax.training.state import Structure

M = TypeVar("M", bound=nnx.Module)


def checked_dtype(dtype: object) -> str:
    """Returns the name of a dtype to compute in; None is "float32".

    Raises:
      UserError: it is none of `TRAINING_DTYPES`.
    """
    try:
        name = "float32" if dtype is None else jnp.dtype(dtype).name  # type: ignore[call-overload]
    except TypeError:
        name = str(dtype)
    if name not in TRAINING_DTYPES:
        raise UserError(f"training.dtype is {dtype!r}; {choices(name, TRAINING_DTYPES)}")
    return name


@contextlib.contextmanager
def training_mode(model: nnx.Module, *, batch_norm: str, dtype: str, remat: bool, mask: jax.Array | None) -> Iterator[None]:
    """Lets a model compute as a training step asks for while the block lasts.

    Args:
      model: of the step's trace.
      batch_norm: "frozen" lets its batch norms use and keep their running statistics; "train" those of the batch.
      dtype: what it computes in; see `compute_in`.
      remat: keep of each of its `blocks` the input alone for the backward pass, which computes the rest again.
      mask: float [n]; rows of mask 0 stay out of batch statistics. None counts every row.

    Raises:
      UserError: `remat` of a model without `blocks`.
    """
    model.train()
    if batch_norm == "frozen":
        for norm in _modules(model, nnx.BatchNorm):
            norm.use_running_average = True
    with compute_in(model, dtype, mask), replaced(model, _blocks(model) if remat else [], RecomputedBlock):
        yield


@contextlib.contextmanager
def compute_in(model: nnx.Module, dtype: str, mask: jax.Array | None = None) -> Iterator[None]:
    """Lets a model compute in `dtype` while the block lasts, without the rows of mask 0 in its batch statistics.

    For another dtype than "float32", its float32 parameters are cast, in an operation through which float32 gradients flow
    back, and modules that state a dtype to compute in get this one. Batch norms keep float32 parameters and statistics,
    compute in float32, and return the dtype of their input. A layer that states no dtype computes in that of its input: the
    head of a bridgejax classifier, whose pooled features are float32, in float32.
    """
    norms = _modules(model, nnx.BatchNorm)
    lowers = dtype != "float32"
    if lowers:
        unchanged = {id(value) for norm in norms for value in vars(norm).values()}
        for _, node in nnx.iter_graph(model):
            if isinstance(node, nnx.Param) and id(node) not in unchanged and node[...].dtype == jnp.float32:
                node[...] = node[...].astype(dtype)
        for module in _modules(model, nnx.Module):
            stated = getattr(module, "dtype", None)
            if not isinstance(module, nnx.BatchNorm) and stated is not None and jnp.issubdtype(stated, jnp.floating):
                setattr(module, "dtype", jnp.dtype(dtype))  # noqa: B010 - nnx.Module does not declare it
    rows = None if mask is None else RowMask(mask)

    def stand_in(norm: nnx.BatchNorm) -> BatchNormCall:
        takes_mask = "mask" in inspect.signature(type(norm).__call__).parameters
        return BatchNormCall(norm, rows if takes_mask else None, lowers and not isinstance(norm, BatchNorm))

    with replaced(model, norms if lowers or rows is not None else [], stand_in):
        yield


def lowered(images: jax.Array, dtype: str) -> jax.Array:
    """Returns images in the dtype that the network computes in; in float32 they may come in any. Features stay as they are."""
    return images if dtype == "float32" or images.ndim == 2 else images.astype(dtype)


def other_arrays(structure: Structure, model: nnx.Module, before: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns what a call left of the arrays that are not trained, by dotted path.

    Args:
      structure: the model's `Structure`.
      model: after its call.
      before: the same arrays before it. Frozen parameters stay, whatever they were cast to, and nothing changes its dtype.
    """
    frozen = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    after = structure.arrays_of(model)
    return {name: value if name in frozen else _of_dtype(after[name], value) for name, value in before.items()}


def _of_dtype(array: jax.Array, like: jax.Array) -> jax.Array:
    return array if array.dtype == like.dtype else array.astype(like.dtype)


# -- modules that stand in for others while a model is called ------------------------------------------------------------------


class RowMask(nnx.Variable[jax.Array]):
    """The mask of a step's rows, float [n]."""


class BatchNormCall(nnx.Module):
    """Stands in for a batch norm that a model calls with its input alone.

    Attributes:
      norm: the batch norm.
      rows: the step's mask, which keeps padding rows out of batch statistics; None counts every row.
      widens: the norm is not made for shorter floats: it gets float32, and its output goes back to the dtype of the input.
    """

    def __init__(self, norm: nnx.BatchNorm, rows: RowMask | None, widens: bool) -> None:
        self.norm, self.rows, self.widens = norm, nnx.data(rows), widens

    def __call__(self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None) -> jax.Array:
        norm, wide = self.norm, x.astype(jnp.float32) if self.widens else x
        rows = None if self.rows is None else self.rows[...]
        if rows is None or mask is not None or x.shape[0] != rows.shape[0]:
            given = {} if mask is None else {"mask": mask}
            return self._narrow(norm(wide, use_running_average, **given), x)
        some, before = jnp.any(rows > 0), (norm.mean[...], norm.var[...])
        # Of no rows at all there are no statistics: those of the padding keep all numbers finite, and do not stay.
        counts = ((rows > 0) | ~some).reshape(rows.shape + (1,) * (x.ndim - 1))
        y: jax.Array = norm(wide, use_running_average, mask=counts)
        norm.mean[...] = jnp.where(some, norm.mean[...], before[0])
        norm.var[...] = jnp.where(some, norm.var[...], before[1])
        return self._narrow(y, x)

    def _narrow(self, y: jax.Array, x: jax.Array) -> jax.Array:
        return y.astype(x.dtype) if self.widens else y


def residual_branches(model: nnx.Module) -> list[list[nnx.Module]]:
    """Returns of each of a model's `blocks` what stochastic depth can skip; of one without a residual, nothing.

    Raises:
      UserError: it has no blocks, or they do not name their `branches`.
    """
    blocks = getattr(model, "blocks", ())
    found = [[getattr(block, name) for name in getattr(block, "branches", ())] for block in blocks]
    if not any(found):
        raise UserError(
            f"stochastic_depth is above 0, but {type(model).__name__} has no `blocks` that name their residual `branches`; "
            "set it to 0, or take another network."
        )
    return found


@contextlib.contextmanager
def skipping_branches(model: nnx.Module, most: float, keys: jax.Array) -> Iterator[None]:
    """Lets each row skip residual branches of a model's `blocks` at random while the block lasts (stochastic depth).

    A block's rate rises evenly from 0 at the first to `most` at the last; its branches are drawn apart, and what is not
    skipped is divided by 1 - rate.

    Args:
      model: of the step's trace.
      most: rate in (0, 1).
      keys: of each row, [n].

    Raises:
      UserError: as `residual_branches`.
    """
    blocks = residual_branches(model)
    branches = [(most * number / max(1, len(blocks) - 1), branch) for number, block in enumerate(blocks) for branch in block]
    draws = jax.vmap(lambda key: jax.random.uniform(key, (len(branches),)))(keys)
    scales = {id(branch): (draws[:, k] >= rate) / (1.0 - rate) for k, (rate, branch) in enumerate(branches)}
    with replaced(model, [branch for _, branch in branches], lambda branch: ScaledBranch(branch, RowMask(scales[id(branch)]))):
        yield


class ScaledBranch(nnx.Module):
    """Stands in for a residual branch, whose rows are multiplied by `rows`, float [n]."""

    def __init__(self, branch: nnx.Module, rows: RowMask) -> None:
        self.branch, self.rows = branch, nnx.data(rows)

    def __call__(self, *arguments: object, **options: object) -> jax.Array:
        y: jax.Array = self.branch(*arguments, **options)
        return y * self.rows[...].astype(y.dtype).reshape(-1, *(1,) * (y.ndim - 1))


class RecomputedBlock(nnx.Module):
    """Stands in for a block of a network, whose call is computed again in the backward pass."""

    def __init__(self, block: nnx.Module) -> None:
        self.block = block

    def __call__(self, *arguments: object, **options: object) -> object:
        def again(block: Callable[..., object]) -> object:  # arguments of every kind are passed on as they are
            return block(*arguments, **options)

        return nnx.remat(again, policy=jax.checkpoint_policies.nothing_saveable)(self.block)


@contextlib.contextmanager
def replaced(model: nnx.Module, modules: Iterable[M], stand_in: Callable[[M], nnx.Module]) -> Iterator[None]:
    """Puts `stand_in(module)` in the place of each of a model's `modules` while the block lasts."""
    made = {id(module): (module, stand_in(module)) for module in modules}
    places = [(put, made[id(child)]) for child, put in _places(model) if id(child) in made]
    for put, (_, new) in places:
        put(new)
    try:
        yield
    finally:
        for put, (old, _) in places:
            put(old)


def _places(model: nnx.Module) -> list[tuple[object, Callable[[object], None]]]:
    """Returns what each attribute of a model's modules, and each entry of a list in one, holds, and what replaces it."""
    places: list[tuple[object, Callable[[object], None]]] = []
    for parent in _modules(model, nnx.Module):
        for name, child in vars(parent).items():
            places.append((child, functools.partial(setattr, parent, name)))
            if isinstance(child, list):
                places += [(each, functools.partial(child.__setitem__, k)) for k, each in enumerate(child)]
    return places


def _modules(model: nnx.Module, kind: type[M]) -> list[M]:
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, kind)]


def _blocks(model: nnx.Module) -> list[nnx.Module]:
    blocks = getattr(model, "blocks", None)
    found = [block for block in blocks if isinstance(block, nnx.Module)] if isinstance(blocks, Iterable) else []
    if not found:
        raise UserError(
            f"training.remat is True, but {type(model).__name__} has no `blocks` to recompute; set it to False, or give "
            "the model its repeated parts as a list of that name."
        )
    return found
