"""The state of a training run: one pytree that a jitted step takes and gives back."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.identity import fold_word
from bridgejax.mesh import local_copy

Path = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """The part of a model that holds no arrays: its graph, and which path each array goes to.

    Equal structures share compilations, so models that were built alike train with one program.
    """

    graphdef: Any
    paths: tuple[tuple[str, Path], ...]
    _hash: int

    @classmethod
    def of(cls, model: nnx.Module) -> tuple[Structure, dict[str, Any], frozenset[str], frozenset[str]]:
        """Returns a model's structure, its arrays by dotted path, and the names of its Params and of its RNG keys."""
        graphdef, state = nnx.split(model)
        arrays: dict[str, Any] = {}
        paths: dict[str, Path] = {}
        params, keys = set(), set()
        for path, leaf in nnx.to_flat_state(state):
            name = ".".join(map(str, path))
            variable = isinstance(leaf, nnx.Variable)
            arrays[name] = leaf[...] if variable else leaf
            paths[name] = path
            if variable and issubclass(type(leaf), nnx.Param):
                params.add(name)
            if variable and issubclass(type(leaf), nnx.RngKey):
                keys.add(name)
        items = tuple(sorted(paths.items()))
        made = cls(graphdef, items, hash((graphdef, items)))
        return _STRUCTURES.setdefault(made, made), arrays, frozenset(params), frozenset(keys)

    def merge(self, arrays: dict[str, Any]) -> nnx.Module:
        """Returns the model with the given arrays, by dotted path."""
        return nnx.merge(self.graphdef, nnx.from_flat_state({path: arrays[name] for name, path in self.paths}))

    def arrays_of(self, model: nnx.Module) -> dict[str, Any]:
        """Returns the arrays of a model of this structure, by dotted path; variables that a call added are left out."""
        found = dict(nnx.to_flat_state(nnx.state(model)))
        leaves = {name: found[path] for name, path in self.paths}
        return {name: leaf[...] if isinstance(leaf, nnx.Variable) else leaf for name, leaf in leaves.items()}

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Structure)
            and self._hash == other._hash
            and self.paths == other.paths
            and self.graphdef == other.graphdef
        )

    def __hash__(self) -> int:
        return self._hash


# Equal structures are one object: comparing two whole graphs at every step costs more than dispatching a small step.
_STRUCTURES: dict[Structure, Structure] = {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A model's arrays, its optimiser's, the step and the random key; jitted steps donate it.

    Attributes:
      params: the trained parameters by dotted path, such as "head.kernel".
      other: all other arrays by dotted path: frozen parameters, batch statistics, dropout keys.
      opt_state: the optimiser's state over `params`.
      step: int32 scalar, optimiser steps done.
      key: the key that each step folds with its number.
    """

    params: dict[str, jax.Array]
    other: dict[str, jax.Array]
    opt_state: Any
    step: jax.Array
    key: jax.Array
    structure: Structure = dataclasses.field(metadata={"static": True})
    optimizer: optax.GradientTransformation = dataclasses.field(metadata={"static": True})

    @classmethod
    def create(
        cls,
        model: nnx.Module,
        optimizer: optax.GradientTransformation,
        seed: int = 0,
        *,
        trainable: Iterable[str] = ("all",),
    ) -> TrainState:
        """Returns the state of a run that starts from `model`; its arrays are copied, so the model stays usable.

        Args:
          model: any nnx.Module whose call maps images to logits [n, classes].
          optimizer: of `make_optimizer`, or any optax transformation.
          seed: decides Mixup and the model's dropout.
          trainable: what trains: "all", "head" (the module named `head`), or regular expressions that are searched in the
            dotted paths of the parameters. The rest gets neither gradient nor weight decay.

        Raises:
          UserError: a pattern that matches no parameter, or a model without parameters.
        """
        if not isinstance(model, nnx.Module):
            raise UserError(f"the model is a {type(model).__name__}; give a flax.nnx.Module whose call maps images to logits.")
        if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
            raise UserError(
                f"the optimizer is {optimizer!r}; make it with make_optimizer(name, learning_rate=…), or with optax."
            )
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise UserError(f"seed is {seed!r}; give a whole number.")
        structure, arrays, parameters, rng_keys = Structure.of(model)
        key = jax.random.key(seed)
        for name in rng_keys:
            shape = arrays[name].shape
            fresh = jax.random.fold_in(key, fold_word(name))
            arrays[name] = fresh if not shape else jax.random.split(fresh, shape)
        chosen = select_parameters(parameters, trainable)
        params = {name: _copy(arrays[name]) for name in sorted(chosen)}
        other = {name: _copy(array) for name, array in sorted(arrays.items()) if name not in chosen}
        return cls(params, other, optimizer.init(params), jnp.zeros((), jnp.int32), key, structure, optimizer)

    @property
    def model(self) -> nnx.Module:
        """The module with the current weights, in copies that later steps do not touch."""
        return self.structure.merge({name: _copy(array) for name, array in {**self.params, **self.other}.items()})


def select_parameters(names: Iterable[str], patterns: Iterable[str]) -> frozenset[str]:
    """Returns the parameter names that the patterns choose; see `TrainState.create`.

    Raises:
      UserError: a pattern is no regular expression or matches nothing.
    """
    known = sorted(names)
    if not known:
        raise UserError("the model has no nnx.Param, so there is nothing to train; give a model with parameters.")
    chosen: set[str] = set()
    wanted = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in wanted:
        expression = {"all": "", "head": r"^head(\.|$)"}.get(pattern, pattern)
        try:
            found = [name for name in known if re.search(expression, name)]
        except re.error as error:
            raise UserError(f"trainable pattern {pattern!r} is not a regular expression ({error}); correct it.") from error
        if not found:
            shown = ", ".join(known[:4])
            raise UserError(
                f"trainable pattern {pattern!r} matches none of the {len(known)} parameters ({shown}, …); correct it."
            )
        chosen.update(found)
    if not chosen:
        raise UserError("trainable is empty; name what trains, for instance ('all',) or ('head',).")
    return frozenset(chosen)


def _copy(array: Any) -> Any:
    array = local_copy(array)
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = jnp.array(jax.random.key_data(array), copy=True)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    return jnp.array(array, copy=True)
