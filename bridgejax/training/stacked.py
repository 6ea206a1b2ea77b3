"""One step of k runs as one vmapped program: states, batches and metrics carry the runs on a leading axis."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bridgejax.errors import UserError
from bridgejax.training import batches
from bridgejax.training.feed import PlacedBatch
from bridgejax.training.state import TrainState
from bridgejax.training.steps import Program, TrainStep, draw_function, jit_options, step_function


def stack(states: Sequence[TrainState]) -> TrainState:
    """Returns the states of k runs as one, every array [k, …]; the given ones stay usable.

    Raises:
      UserError: their models or optimisers differ in structure.
    """
    _check_alike(states)
    return _stack(tuple(states))


def _check_alike(states: Sequence[TrainState]) -> None:
    if len({jax.tree.structure(state) for state in states}) > 1:
        raise UserError("runs train together only if their models and optimisers have one structure; train them one by one.")


@jax.jit
def _stack(states: tuple[TrainState, ...]) -> TrainState:
    return jax.tree.map(lambda *parts: jnp.stack(parts), *states)


def unstack(states: TrainState, count: int) -> list[TrainState]:
    """Returns the states of k runs apart, in copies that later steps do not touch."""
    return list(_unstack(states, count))


@functools.partial(jax.jit, static_argnums=1)
def _unstack(states: TrainState, count: int) -> tuple[TrainState, ...]:
    leaves, structure = jax.tree.flatten(states)
    return tuple(jax.tree.unflatten(structure, [leaf[number] for leaf in leaves]) for number in range(count))


@functools.cache
def _program(program: Program) -> tuple[Any, dict[Any, int]]:
    step, classes = step_function(program)

    def each(state: TrainState, batch: dict[str, Any], drawn: dict[str, Any], settings: dict[str, Any]) -> Any:
        return step(state, batch, {**settings, **drawn})

    vmapped = jax.vmap(each, in_axes=(0, 0, 0, None))
    return jax.jit(vmapped, donate_argnums=0, compiler_options=jit_options(program)), classes


@functools.cache
def _draws(rows: int) -> Any:
    return jax.jit(jax.vmap(draw_function(rows), in_axes=(0, 0, None, 0)))


class StackedStep:
    """`states, metrics = step(states, [batch, …])`: a `TrainStep` over runs that are stacked; the metrics are [k]."""

    def __init__(self, step: TrainStep) -> None:
        self._step = step
        self._jitted, self._classes = _program(step.program)
        self._compiled: Any = None

    def prepare(self, states: Sequence[TrainState], given: Sequence[Any]) -> int:
        """Compiles the program for runs like these and returns the bytes that it takes on the device.

        That is XLA's account of the compiled program: arguments, results and temporaries, less what is shared between them.
        """
        _check_alike(states)
        stacked = jax.eval_shape(_stack, tuple(states))
        parts = self._parts(given)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), parts)
        rows = parts["image"].shape[1]
        drawn: dict[str, Any] = {}
        if self._step.program.mixes:
            k = len(states)
            drawn = {"lam": jax.ShapeDtypeStruct((k,), jnp.float32), "partners": jax.ShapeDtypeStruct((k, rows), jnp.int32)}
        self._compiled = _compile(self._step.program, _Shapes(stacked, shapes, drawn, self._step.settings))
        found = self._compiled.memory_analysis()
        if found is None:
            return 0
        return int(
            found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes - found.alias_size_in_bytes
        )

    def place(self, given: Sequence[Any]) -> PlacedBatch:
        """Checks a batch of each run and begins their transfer to the device, as `TrainStep.place` does."""
        parts = self._parts(given)
        return PlacedBatch(jax.device_put(parts), parts)

    def __call__(self, states: TrainState, given: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        ready = given if isinstance(given, PlacedBatch) else self.place(given)
        parts = ready.parts
        key = (states.structure, tuple(parts["image"].shape[1:]), parts["image"].dtype)
        if key in self._classes:
            batches.check_labels(ready.given, self._classes[key])
        return self._compiled(states, parts, self._drawn(states, parts), self._step.settings)

    def _parts(self, given: Sequence[Any]) -> dict[str, Any]:
        checked = [batches.checked_batch(batch, self._step.required) for batch in given]
        return {name: np.stack([np.asarray(parts[name]) for parts in checked]) for name in checked[0]}

    def _drawn(self, states: TrainState, parts: dict[str, Any]) -> dict[str, Any]:
        if not self._step.program.mixes:
            return {}
        k, rows = parts["image"].shape[:2]
        alpha = self._step.settings["mixup_alpha"]
        if alpha > 0:
            lam, partners = _draws(rows)(states.key, states.step, alpha, parts.get("mask"))
        else:
            lam, partners = np.ones(k, np.float32), np.tile(np.arange(rows, dtype=np.int32), (k, 1))
        return {"lam": lam, "partners": partners}


class _Shapes:
    """The arguments of a compilation, equal where a compiled program serves both."""

    def __init__(self, *trees: Any) -> None:
        self.trees = trees
        leaves, structure = jax.tree.flatten(trees)
        self._key = (structure, tuple((tuple(np.shape(leaf)), str(leaf.dtype)) for leaf in leaves))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shapes) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@functools.lru_cache(maxsize=32)
def _compile(program: Program, shapes: _Shapes) -> Any:
    jitted, _ = _program(program)
    return jitted.lower(*shapes.trees).compile()
