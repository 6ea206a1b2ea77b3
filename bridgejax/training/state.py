"""The state of a training run: one pytree that a jitted step takes and gives back."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.typing import PathParts
from jax.sharding import Mesh, NamedSharding

from bridgejax.errors import UserError
from bridgejax.identity import fold_word
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.mesh import (
    ParameterRule,
    ParameterRuleLike,
    automatic,
    local_copy,
    own_rules,
    put_tree,
    replicated,
    state_sharding,
)
from bridgejax.training.objectives import Objective
from bridgejax.training.objectives.base import ObjectiveState

Arrays = dict[str, jax.Array]  # by dotted path, such as "head.kernel"


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """The part of a model that holds no arrays: its graph, and which path each array goes to.

    Equal structures share compilations, so models that were built alike train with one program.
    """

    graphdef: nnx.GraphDef[nnx.Module]
    paths: tuple[tuple[str, PathParts], ...]
    _hash: int

    @classmethod
    def of(cls, model: nnx.Module) -> tuple[Structure, Arrays, frozenset[str], frozenset[str]]:
        """Returns a model's structure, its arrays by dotted path, and the names of its Params and of its RNG keys."""
        graphdef, state = nnx.split(model)
        arrays: Arrays = {}
        paths: dict[str, PathParts] = {}
        params, keys = set(), set()
        for path, leaf in nnx.to_flat_state(state):
            name = ".".join(map(str, path))
            variable = isinstance(leaf, nnx.Variable)
            arrays[name] = leaf.get_value() if variable else leaf
            paths[name] = path
            if variable and issubclass(type(leaf), nnx.Param):
                params.add(name)
            if variable and issubclass(type(leaf), nnx.RngKey):
                keys.add(name)
        items = tuple(sorted(paths.items()))
        made = cls(graphdef, items, _hash_of(graphdef, items))
        return _STRUCTURES.setdefault(made, made), arrays, frozenset(params), frozenset(keys)

    def merge(self, arrays: Mapping[str, jax.Array]) -> nnx.Module:
        """Returns the model with the given arrays, by dotted path."""
        flat = {path: arrays[name] for name, path in self.paths}
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat))  # arrays stand for variables

    def arrays_of(self, model: nnx.Module) -> Arrays:
        """Returns the arrays of a model of this structure, by dotted path; variables that a call added are left out."""
        by_path = dict(nnx.to_flat_state(nnx.state(model)))
        leaves = {name: by_path[path] for name, path in self.paths}
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


def _hash_of(graphdef: nnx.GraphDef[nnx.Module], paths: tuple[tuple[str, PathParts], ...]) -> int:
    """Returns the hash of a structure; of a module with plain dicts or lists as attributes, that of its paths."""
    try:
        return hash((graphdef, paths))
    except TypeError:
        return hash(paths)


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
      objective_state: what the stage's objective carries from step to step; () for most.
    """

    params: Arrays
    other: Arrays
    opt_state: optax.OptState
    step: jax.Array
    key: jax.Array
    objective_state: ObjectiveState
    structure: Structure = dataclasses.field(metadata={"static": True})
    optimizer: optax.GradientTransformation = dataclasses.field(metadata={"static": True})

    @classmethod
    @under_jax_defaults
    def create(
        cls,
        model: nnx.Module,
        optimizer: optax.GradientTransformation,
        seed: int = 0,
        *,
        trainable: Iterable[str] = ("all",),
        objective: Objective | None = None,
        mesh: Mesh | None = None,
        rules: Sequence[ParameterRuleLike] = (),
    ) -> TrainState:
        """Returns the state of a run that starts from `model`; its arrays are copied, so the model stays usable.

        Args:
          model: any nnx.Module whose call maps images to logits [n, classes]. Of one without arrays (`nnx.eval_shape`) the
            state has shapes, dtypes and shardings alone.
          optimizer: of `make_optimizer`, or any optax transformation.
          seed: decides Mixup and the model's dropout.
          trainable: what trains: "all", "head" (the module named `head`), or regular expressions that are searched in the
            dotted paths of the parameters. The rest gets neither gradient nor weight decay.
          objective: what the steps will minimise, if it has a state of its own.
          mesh: the devices that the state lies on, each array as `bridgejax.mesh.state_sharding` says; what an optimiser adds
            is made in its shards. None is the default device.
          rules: (regular expression, axes) pairs that go before the built-in ones.

        Raises:
          UserError: a pattern that matches no parameter, a model without parameters, or a wrong rule.
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
        params = {name: arrays[name] for name in sorted(chosen)}
        other = {name: array for name, array in sorted(arrays.items()) if name not in chosen}

        def begin(params: Arrays) -> tuple[ObjectiveState, optax.OptState]:
            return () if objective is None else objective.init(params), optimizer.init(params)

        def state(params: Arrays, other: Arrays, begun: tuple[ObjectiveState, optax.OptState]) -> TrainState:
            extra, opt_state = begun
            return cls(params, other, opt_state, jnp.zeros((), jnp.int32), key, extra, structure, optimizer)

        abstract = any(isinstance(array, jax.ShapeDtypeStruct) for array in arrays.values())
        if mesh is None and not abstract:
            params, other = jax.tree.map(_copy, (params, other))
            return state(params, other, _apart(begin(params), params))
        shapes: TrainState = jax.eval_shape(lambda params, other: state(params, other, begin(params)), params, other)
        if mesh is None:
            return shapes
        layout = _layout(shapes, mesh, own_rules(rules))
        if abstract:
            return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, layout)
        # Array by array: a large model is there once, and beside it one array whole.
        place = lambda x, where: _fresh(put_tree(x, where))  # noqa: E731
        params, other = jax.tree.map(place, (params, other), (layout.params, layout.other))
        whole = all(where.is_fully_replicated for where in jax.tree.leaves(layout))
        init = begin if whole else jax.jit(begin, out_shardings=(layout.objective_state, layout.opt_state))
        return put_tree(state(params, other, _apart(init(params), params)), layout)

    @property
    @under_jax_defaults
    def model(self) -> nnx.Module:
        """The module with the current weights, in copies that later steps do not touch."""
        return self.structure.merge({name: _copy(array) for name, array in self.arrays.items()})

    @property
    def arrays(self) -> Arrays:
        """All arrays of the model, those that later steps donate."""
        return {**self.params, **self.other}

    def check_alive(self) -> None:
        """Checks that no step took the state's arrays.

        Raises:
          UserError: one did.
        """
        if isinstance(self.step, jax.Array) and not isinstance(self.step, jax.core.Tracer) and self.step.is_deleted():
            raise UserError(
                "the state was donated to an earlier step, so its arrays are gone; go on with the state that it returned."
            )


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
            matching = [name for name in known if re.search(expression, name)]
        except re.error as error:
            raise UserError(f"trainable pattern {pattern!r} is not a regular expression ({error}); correct it.") from error
        if not matching:
            shown = ", ".join(known[:4])
            raise UserError(
                f"trainable pattern {pattern!r} matches none of the {len(known)} parameters ({shown}, …); correct it."
            )
        chosen.update(matching)
    if not chosen:
        raise UserError("trainable is empty; name what trains, for instance ('all',) or ('head',).")
    return frozenset(chosen)


def _copy(array: jax.Array) -> jax.Array:
    return _fresh(local_copy(array))


def _fresh(array: jax.Array) -> jax.Array:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = jnp.array(jax.random.key_data(array), copy=True)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    return jnp.array(array, copy=True)


Tree = TypeVar("Tree")


def _apart(tree: Tree, others: object) -> Tree:
    """Returns the tree with a copy of each array that stands in it twice, or in `others`: a step donates each array once."""
    seen = {id(leaf) for leaf in jax.tree.leaves(others)}

    def alone(leaf: object) -> object:
        if isinstance(leaf, jax.Array) and id(leaf) in seen:
            return _fresh(leaf)
        seen.add(id(leaf))
        return leaf

    return jax.tree.map(alone, tree)


def _layout(tree: Tree, mesh: Mesh, rules: Sequence[ParameterRule]) -> Tree:
    """Returns in the place of each array of a state, or of a part of it, how it lies on the mesh: by `state_sharding`."""

    def place(path: jax.tree_util.KeyPath, array: jax.Array) -> NamedSharding:
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            return replicated(mesh)
        names = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]  # of the parameter, at the end
        return state_sharding(mesh, names[-1] if names else "", array.shape, rules)

    return jax.tree_util.tree_map_with_path(place, tree)


def on_mesh(tree: Tree, mesh: Mesh) -> Tree:
    """Returns the tree with all of its arrays on the mesh; those that are there already stay as they lie."""
    where = automatic(mesh)

    def lies_there(x: jax.Array) -> bool:
        return isinstance(x.sharding, NamedSharding) and x.sharding.mesh == where

    if all(map(lies_there, jax.tree.leaves(tree))):
        return tree
    layout = jax.tree.map(lambda x, other: x.sharding if lies_there(x) else other, tree, _layout(tree, mesh, ()))
    return put_tree(tree, layout)
