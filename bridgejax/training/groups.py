"""Many runs of one recipe at once: seeds of an arm share one program, one compilation and the decoded images.

Two ways, both with the numbers of separate runs:

- "vmap": the states of k runs lie stacked on a leading axis and one vmapped program takes a step of all of them. On an
  accelerator a small network leaves most of the device idle, and k of them fill it. Equal to separate runs but for the order
  of sums (the tests' tolerance: 1e-4 of a tensor's largest value after a two-stage run).
- "interleave": each run's own program, sent to the device in turns without waiting, so that several execute at a time. Equal
  bit for bit. On a CPU this is the quicker way for all but the smallest networks: vmapping a convolution or a matrix product
  over kernels makes a batched one, which XLA's CPU backend runs slower than one by one (benchmarks/parallel_seeds.py).

Checkpoints are those of single runs, one folder each: what was stopped in a group goes on alone, and the other way round.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import jax

from bridgejax import data, runtime
from bridgejax.errors import TryAgain, UserError
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.progress import stage_heading
from bridgejax.recipes import Recipe
from bridgejax.training.driver import RunDriver
from bridgejax.training.feed import peeked
from bridgejax.training.loop import train_run, train_stage
from bridgejax.training.memory import free_bytes
from bridgejax.training.run_options import RunInputs, RunOptions, Streams
from bridgejax.training.run_record import RunResult
from bridgejax.training.shared_pipelines import SharedPipelines
from bridgejax.training.stacked import StackedStep, StackedStepper
from bridgejax.training.stages import StagePlan

STRATEGIES = ("vmap", "interleave")


@under_jax_defaults
def train_group(
    recipe: Recipe,
    members: Sequence[RunInputs],
    options: RunOptions,
    *,
    streams: Streams | None = None,
    strategy: str | None = None,
    memory_bytes: int | None = None,
) -> list[RunResult]:
    """Trains a recipe from several models at once and evaluates each on its own test split.

    Called again after it was stopped, at any moment, it goes on from each run's last checkpoint.

    Args:
      recipe, options, streams: as `train_recipe` takes them, for each run. The mesh has one device and one process, or is None.
      members: the runs. Their models have one structure, differ in weights as they like, and are not changed.
      strategy: one of `STRATEGIES`; None means "interleave" on a CPU and "vmap" elsewhere. A stage that stops early is
        interleaved, since its runs end at different steps, and so are runs that accumulate.
      memory_bytes: what the vmapped program may take; None means what is free on the device. If it takes more by XLA's own
        account (arguments, results and temporaries, less what they share), as many runs at a time as fit are vmapped.

    Returns:
      A `RunResult` per member. "seconds" are each run's share of the time.

    Raises:
      UserError: as `train_recipe`, and if the models differ in structure or the mesh has several devices.
      Diverged: as `train_recipe`; its `seed` tells the run.
      TryAgain: as `train_recipe`, of all runs.
    """
    if strategy not in (None, *STRATEGIES):
        raise UserError(f"strategy is {strategy!r}; use one of {', '.join(STRATEGIES)}, or None.")
    if (options.mesh is not None and options.mesh.size > 1) or jax.process_count() > 1:
        raise UserError("seeds train together on one device only; set study.parallel_seeds=1 on a mesh of several.")
    vmaps = (strategy or ("interleave" if jax.default_backend() == "cpu" else "vmap")) == "vmap" and options.accumulate == 1
    with runtime.listening(), contextlib.ExitStack() as stack:
        pipelines = stack.enter_context(SharedPipelines())
        runs: list[RunDriver] = []
        for member in members:
            run = RunDriver(recipe, member, options, data if streams is None else streams)
            stack.callback(run.close)
            run.resume()
            runs.append(run)
        pipelines.share_evaluation([run for run in runs if not run.is_finished])
        for plan, following in itertools.zip_longest(runs[0].plans, runs[0].plans[1:]):
            _train_stage(plan, following, runs, pipelines, vmaps, memory_bytes)
        return [run.result() for run in runs]


def _train_stage(
    plan: StagePlan,
    following: StagePlan | None,
    everyone: list[RunDriver],
    pipelines: SharedPipelines,
    vmaps: bool,
    memory_bytes: int | None,
) -> None:
    """Takes the runs to the end of a stage, and has the streams of the `following` one prepared meanwhile."""
    runs = [run for run in everyone if run.step < plan.end]
    if not runs:
        return
    if runs != everyone:
        following = None  # it is prepared if all go through this one, and so enter that one at its first step
    # After a stop the runs may lie a few steps apart; those behind catch up with the one in front. An early stop may end them.
    front = max(run.step for run in runs)
    _interleave(train_run(run, front) for run in runs)
    runs = [run for run in runs if run.step < plan.end]
    size = len(runs) if vmaps and plan.stage.early_stop is None else 1
    while size > 1:
        group = runs[:size]
        stepper, fits = _stacked(plan, group, pipelines, memory_bytes)
        if stepper is None:
            size, following = fits, None
            continue
        pipelines.prepare(following, everyone)
        _interleave([train_stage(stepper, plan, plan.end)])
        runs = runs[size:]
        size = min(size, len(runs))
    if runs:
        pipelines.share(plan, runs)
        pipelines.prepare(following, everyone)
        _interleave(train_run(run, plan.end) for run in runs)


def _stacked(
    plan: StagePlan, group: list[RunDriver], pipelines: SharedPipelines, memory_bytes: int | None
) -> tuple[StackedStepper | None, int]:
    """Returns the stepper of runs that train as one program, or None where they do not fit, and how many runs do."""
    # Only those that go in step share a pipeline: it would hold every batch for a run that waits.
    pipelines.share(plan, group)
    for run in group:
        run.enter(plan)
    streams = [peeked(run.batches(plan)) for run in group]
    step, size = StackedStep(group[0].step_of(plan)), len(group)
    needed = step.prepare([run.state for run in group], [first for first, _ in streams])
    limit = free_bytes() if memory_bytes is None else memory_bytes
    if needed <= limit:
        return StackedStepper(group, plan, step, [stream for _, stream in streams]), size
    fits = min(size - 1, int(limit * size / needed))
    stage_heading(
        f"  {size} seeds at once take {needed / 2**30:.2f} GiB ({needed / size / 2**20:.0f} MiB each), "
        f"{limit / 2**30:.2f} GiB are free: {f'{fits} at a time' if fits > 1 else 'one by one'}"
    )
    return None, fits


def _interleave(work: Iterable[Iterator[None]]) -> None:
    """Sends a step of each run to the device in turns, until all are done or have ended at a scheduler's signal."""
    waiting, ended = list(work), None
    while waiting:
        for steps in list(waiting):
            try:
                next(steps)
            except StopIteration:
                waiting.remove(steps)
            except TryAgain as error:
                waiting.remove(steps)
                ended = error
    if ended is not None:
        raise ended
