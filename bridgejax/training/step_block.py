"""Several steps of a run as one program: where a step takes a tenth of a millisecond, sending it to the device takes longer."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.training import batches
from bridgejax.training.batches import Array
from bridgejax.training.driver import RunDriver
from bridgejax.training.feed import PlacedBatch, peeked
from bridgejax.training.mixing import MixupDraw, no_mixup
from bridgejax.training.objectives import Objective
from bridgejax.training.stages import StagePlan
from bridgejax.training.state import TrainState
from bridgejax.training.train_step import Metrics, StepProgram, StepSettings, TrainStep, shape_key, step_compiler_options

BLOCK_STEPS = 64
BLOCK_BYTES = 16 << 20  # of the batches of a block


def train_block(
    state: TrainState,
    block: dict[str, jax.Array],
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
      block: the steps' batches, stacked on a leading axis k; from `count` on they may hold anything.
      count: int32, at most k.
      objective, mixup: as `train_step` takes them, for every step.
      program: whose function takes a step.

    Returns:
      The state after them, and the metrics of each step, float32 [k], NaN from `count` on, with "taken", the count.
    """

    def batch(number: jax.Array) -> dict[str, jax.Array]:
        return {name: jax.lax.dynamic_index_in_dim(rows, number, keepdims=False) for name, rows in block.items()}

    steps = len(next(iter(block.values())))
    _, shapes = jax.eval_shape(program.function, state, batch(jnp.int32(0)), objective, mixup)
    metrics = {name: jnp.full((steps, *shape.shape), jnp.nan, shape.dtype) for name, shape in shapes.items()}

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

    def __init__(self, step: TrainStep) -> None:
        self._step = step

    def steps_of(self, batch: Mapping[str, Array]) -> int:
        """Returns how many steps on batches like this one make a block."""
        return max(1, min(BLOCK_STEPS, BLOCK_BYTES // max(1, sum(np.asarray(part).nbytes for part in batch.values()))))

    @under_jax_defaults
    def place(self, given: Sequence[Mapping[str, Array]], steps: int) -> PlacedBatch:
        """Checks the batches of at most `steps` steps, stacks them and begins their transfer to the device."""
        checked = [batches.checked_batch(batch, self._step.objective.required) for batch in given]
        block = {}
        for name, part in checked[0].items():
            block[name] = np.zeros((steps, *part.shape), part.dtype)
            np.stack([each[name] for each in checked], out=block[name][: len(checked)])
        rows = {name: part[: len(checked)].reshape(-1, *part.shape[2:]) for name, part in block.items()}
        return PlacedBatch(jax.device_put(block), dict(rows), len(checked))

    @under_jax_defaults
    def __call__(self, state: TrainState, block: PlacedBatch) -> tuple[TrainState, Metrics]:
        """Takes the block's steps; the state is donated.

        Raises:
          UserError: a label is out of range.
        """
        state.check_alive()
        rows = block.parts["image"].shape[1]
        mixup = no_mixup(rows, self._step.settings.mesh, 1) if self._step.mixes else None
        arguments = state, block.parts, np.int32(block.steps), self._step.objective, mixup
        program, key = _jitted(self._step.program, self._step.settings), shape_key(state, block.parts, axis=1)
        if key not in self._step.program.widths:
            program.trace(*arguments)  # the call reuses it
        if "label" in block.given:
            batches.check_labels(block.given, self._step.program.widths[key])
        after: tuple[TrainState, Metrics] = program(*arguments)
        return after


class BlockStepper:
    """Steps of one run, in blocks that end where something else is to be done; see `bridgejax.training.loop.Stepper`."""

    def __init__(self, run: RunDriver, plan: StagePlan) -> None:
        self.runs: Sequence[RunDriver] = (run,)
        self.title = run.title(plan)
        self._run, self._plan, self._step = run, plan, BlockStep(run.step_of(plan))
        self._stream = run.batches(plan)

    def batches(self, stop: int) -> Iterator[tuple[list[dict[str, Array]], int]]:
        step, (first, stream) = self._run.step, peeked(self._stream)
        size = self._step.steps_of(first)
        while step < stop:
            ahead = range(step + 1, min(step + size, stop))
            end = next((each for each in ahead if self._run.pauses_after(self._plan, each)), ahead.stop)
            yield list(itertools.islice(stream, end - step)), size
            step = end

    def place(self, batch: tuple[list[dict[str, Array]], int]) -> PlacedBatch:
        return self._step.place(*batch)

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
