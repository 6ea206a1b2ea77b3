"""Several steps of a run as one program: where a step takes a tenth of a millisecond, sending it to the device takes longer.

The images' features lie on the device in one table; a block of steps brings only the positions of its batches in it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.training import batches
from bridgejax.training.batches import Array, Batch
from bridgejax.training.driver import RunDriver
from bridgejax.training.feed import PlacedBatch
from bridgejax.training.mixing import MixupDraw, no_mixup
from bridgejax.training.objectives import Objective
from bridgejax.training.stages import StagePlan
from bridgejax.training.state import TrainState
from bridgejax.training.train_step import Metrics, StepProgram, StepSettings, TrainStep, shape_key, step_compiler_options

BLOCK_STEPS = 64


def train_block(
    state: TrainState,
    table: dict[str, jax.Array],
    positions: jax.Array,
    count: jax.Array,
    objective: Objective,
    mixup: MixupDraw | None,
    *,
    program: StepProgram,
) -> tuple[TrainState, Metrics]:
    """Takes the first `count` of k steps, one after the other.

    The loop's length is an argument, so a step's numbers do not depend on the block that it is in.

    Args:
      state: the state before them.
      table: the rows of all batches, each part [n, …].
      positions: int32 [k, b], in [0, n): the rows of each step's batch.
      count: int32, at most k.
      objective, mixup: as `train_step` takes them, for every step.
      program: whose function takes a step.

    Returns:
      The state after them, and the metrics of each step, float32 [k], NaN from `count` on, with "taken", the count.
    """

    def batch(number: jax.Array) -> dict[str, jax.Array]:
        rows = jax.lax.dynamic_index_in_dim(positions, number, keepdims=False)
        return {name: part.at[rows].get(mode="promise_in_bounds") for name, part in table.items()}

    _, shapes = jax.eval_shape(program.function, state, batch(jnp.int32(0)), objective, mixup)
    metrics = {name: jnp.full((len(positions), *shape.shape), jnp.nan, shape.dtype) for name, shape in shapes.items()}

    def take(number: jax.Array, carried: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        before, noted = carried
        after, new = program.function(before, batch(number), objective, mixup)
        return after, {name: noted[name].at[number].set(value) for name, value in new.items()}

    state, metrics = jax.lax.fori_loop(0, count, take, (state, metrics))
    return state, {**metrics, "taken": count}


@functools.cache
def _jitted(program: StepProgram, settings: StepSettings) -> jax.stages.Wrapped:
    function = functools.partial(train_block, program=program)
    return jax.jit(function, donate_argnums=0, compiler_options=step_compiler_options(settings.remat))


class BlockStep:
    """`state, metrics = step(state, block)`: a `TrainStep` on one device, taken once for each batch of a block."""

    def __init__(self, step: TrainStep, table: Mapping[str, Array]) -> None:
        """Checks the table that the batches are taken from, as the step checks a batch."""
        self._step, self._labels_checked = step, False
        self._given: Batch = batches.checked_batch(table, step.objective.required)
        self._table: dict[str, jax.Array] = {}  # on the device

    @under_jax_defaults
    def place(self, positions: Sequence[npt.NDArray[np.int64]]) -> PlacedBatch:
        """Returns a block of at most `BLOCK_STEPS` batches: the table, whose transfer begins here, and the positions, int32.

        These are few, and go to the device with the call: a transfer of their own would take longer.
        """
        if not self._table:
            self._table = jax.device_put(self._given)
        block = np.zeros((BLOCK_STEPS, len(positions[0])), np.int32)
        block[: len(positions)] = positions
        return PlacedBatch(self._table, {"positions": block}, len(positions))

    @under_jax_defaults
    def __call__(self, state: TrainState, block: PlacedBatch) -> tuple[TrainState, Metrics]:
        """Takes the block's steps; the state is donated.

        Raises:
          UserError: a label of the table is out of range.
        """
        state.check_alive()
        table, positions = block.parts, block.given["positions"]
        mixup = no_mixup(positions.shape[1], self._step.settings.mesh, 1) if self._step.mixes else None
        arguments = state, table, positions, np.int32(block.steps), self._step.objective, mixup
        program = _jitted(self._step.program, self._step.settings)
        if not self._labels_checked and "label" in self._given:
            image = jax.ShapeDtypeStruct((positions.shape[1], *table["image"].shape[1:]), table["image"].dtype)
            key = shape_key(state, image)
            if key not in self._step.program.widths:
                program.trace(*arguments)  # the call reuses it
            batches.check_labels(self._given, self._step.program.widths[key])
            self._labels_checked = True
        after: tuple[TrainState, Metrics] = program(*arguments)
        return after


class BlockStepper:
    """Steps of one run, in blocks that end where something else is to be done; see `bridgejax.training.loop.Stepper`."""

    def __init__(self, run: RunDriver, plan: StagePlan) -> None:
        self.runs: Sequence[RunDriver] = (run,)
        self.title = run.title(plan)
        table, self._positions = run.feature_table(plan)
        self._run, self._plan, self._step = run, plan, BlockStep(run.step_of(plan), table)

    def batches(self, stop: int) -> Iterator[list[npt.NDArray[np.int64]]]:
        step = self._run.step
        while step < stop:
            ahead = range(step + 1, min(step + BLOCK_STEPS, stop))
            end = next((each for each in ahead if self._run.pauses_after(self._plan, each)), ahead.stop)
            yield list(itertools.islice(self._positions, end - step))
            step = end

    def place(self, batch: list[npt.NDArray[np.int64]]) -> PlacedBatch:
        return self._step.place(batch)

    def step(self, batch: PlacedBatch) -> Metrics:
        self._run.state, metrics = self._step(self._run.state, batch)
        return metrics

    def metrics_of(self, number: int, steps: Sequence[Metrics]) -> Sequence[Mapping[str, float]]:
        rows: list[Mapping[str, float]] = []
        for block in steps:
            taken = int(block["taken"])
            columns = {name: values[:taken].tolist() for name, values in block.items() if name != "taken"}
            rows += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return rows

    def share_states(self) -> None:
        """The run holds its state already."""
