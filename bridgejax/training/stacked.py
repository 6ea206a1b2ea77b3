"""One step of k runs as one vmapped program: states, batches and metrics carry the runs on a leading axis."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bridgejax.errors import UserError
from bridgejax.training import batches
from bridgejax.training.batches import Array
from bridgejax.training.driver import RunDriver
from bridgejax.training.feed import PlacedBatch
from bridgejax.training.mixing import Draw, MixupDraw, draw_function
from bridgejax.training.stages import StagePlan
from bridgejax.training.state import TrainState
from bridgejax.training.train_step import Metrics, StepSettings, TrainStep, shape_key, step_compiler_options, step_program


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


@functools.partial(jax.jit, static_argnums=1)
def _unstack(states: TrainState, count: int) -> tuple[TrainState, ...]:
    leaves, structure = jax.tree.flatten(states)
    return tuple(jax.tree.unflatten(structure, [leaf[number] for leaf in leaves]) for number in range(count))


def unstack(states: TrainState, count: int) -> list[TrainState]:
    """Returns the states of k runs apart, in copies that later steps do not touch."""
    return list(_unstack(states, count))


class StackedStep:
    """`states, metrics = step(states, [batch, …])`: a `TrainStep` over runs that are stacked; the metrics are [k]."""

    def __init__(self, step: TrainStep) -> None:
        self._step = step
        self._compiled: jax.stages.Compiled | None = None

    def prepare(self, states: Sequence[TrainState], given: Sequence[object]) -> int:
        """Compiles the program for runs like these and returns the bytes that it takes on the device.

        That is XLA's account of the compiled program: arguments, results and temporaries, less what is shared between them.
        """
        _check_alike(states)
        stacked = jax.eval_shape(_stack, tuple(states))
        parts = self._parts(given)
        shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, parts))
        draw = _no_mixup(*parts["image"].shape[:2]) if self._step.mixes else None
        if draw is not None and self._step.rule.cut_size(parts["image"].shape[1:]) is not None:
            draw = draw._replace(box=jnp.zeros((len(states), 4), jnp.int32))
        arguments = _ArgumentShapes((stacked, shapes, self._step.objective, draw))
        self._compiled = _compile(self._step.settings, arguments)
        memory = self._compiled.memory_analysis()
        if memory is None:
            return 0
        return int(
            memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes - memory.alias_size_in_bytes
        )

    def place(self, given: Sequence[object]) -> PlacedBatch:
        """Checks a batch of each run and begins their transfer to the device, as `TrainStep.place` does."""
        parts = self._parts(given)
        return PlacedBatch(jax.device_put(parts), dict(parts))

    def __call__(self, states: TrainState, given: PlacedBatch | Sequence[object]) -> tuple[TrainState, Metrics]:
        """Takes a step of every run; the states are donated.

        Raises:
          UserError: a label is out of range.
        """
        ready = given if isinstance(given, PlacedBatch) else self.place(given)
        if self._compiled is None:
            raise RuntimeError("a stacked step was called before `prepare`")
        classes = self._step.program.widths.get(shape_key(states, ready.parts["image"], axis=1))
        if classes is not None and "label" in ready.given:
            batches.check_labels(ready.given, classes)
        return self._compiled(states, ready.parts, self._step.objective, self._draw(states, ready.parts))

    def _parts(self, given: Sequence[object]) -> dict[str, np.ndarray]:
        checked = [batches.checked_batch(batch, self._step.objective.required) for batch in given]
        return {name: np.stack([np.asarray(parts[name]) for parts in checked]) for name in checked[0]}

    def _draw(self, states: TrainState, parts: dict[str, jax.Array]) -> MixupDraw | None:
        if not self._step.mixes:
            return None
        runs, rows = parts["image"].shape[:2]
        if (rule := self._step.rule).mixes:
            size = rule.cut_size(parts["image"].shape[1:])
            return _draws(rows, size)(states.key, states.step, rule, parts.get("mask"))
        return _no_mixup(runs, rows)


class StackedStepper:
    """Steps of runs that are all at the same step of a stage, as one program; see `bridgejax.training.loop.Stepper`."""

    def __init__(
        self, runs: Sequence[RunDriver], plan: StagePlan, step: StackedStep, streams: Sequence[Iterator[dict[str, Array]]]
    ) -> None:
        """Takes over runs that have entered the stage, with what is left of their batches; the step is prepared for them."""
        self.runs = runs
        self.title = f"{runs[0].title(plan)}, {len(runs)} seeds"
        self._step, self._streams = step, streams
        self._states = stack([run.state for run in runs])
        self._release_states()

    def batches(self, stop: int) -> Iterator[tuple[dict[str, Array], ...]]:
        return itertools.islice(zip(*self._streams, strict=True), stop - self.runs[0].step)

    def place(self, batch: tuple[dict[str, Array], ...]) -> PlacedBatch:
        return self._step.place(batch)

    def step(self, batch: PlacedBatch) -> Metrics:
        self._release_states()
        self._states, metrics = self._step(self._states, batch)
        return metrics

    def metrics_of(self, number: int, steps: Sequence[Metrics]) -> Sequence[Mapping[str, float]]:
        return [{name: float(value[number]) for name, value in metrics.items()} for metrics in steps]

    def share_states(self) -> None:
        for run, state in zip(self.runs, unstack(self._states, len(self.runs)), strict=True):
            run.state = state

    def _release_states(self) -> None:
        for run in self.runs:
            run.release_state()


@functools.cache
def _draws(rows: int, size: tuple[int, int] | None) -> Draw:
    return jax.jit(jax.vmap(draw_function(rows, size), in_axes=(0, 0, None, 0)))


@functools.cache
def _no_mixup(runs: int, rows: int) -> MixupDraw:
    return MixupDraw(jnp.ones(runs, jnp.float32), jnp.tile(jnp.arange(rows, dtype=jnp.int32), (runs, 1)))


class _ArgumentShapes:
    """The arguments of a compilation, equal where a compiled program serves both."""

    def __init__(self, arguments: tuple[object, ...]) -> None:
        self.arguments = arguments
        leaves, structure = jax.tree.flatten(arguments)
        self._key = (structure, tuple((tuple(np.shape(leaf)), str(leaf.dtype)) for leaf in leaves))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ArgumentShapes) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@functools.lru_cache(maxsize=32)
def _compile(settings: StepSettings, shapes: _ArgumentShapes) -> jax.stages.Compiled:
    vmapped = jax.vmap(step_program(settings).function, in_axes=(0, 0, None, 0))
    jitted = jax.jit(vmapped, donate_argnums=0, compiler_options=step_compiler_options(settings.remat))
    return jitted.lower(*shapes.arguments).compile()
