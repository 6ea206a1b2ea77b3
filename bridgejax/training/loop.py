"""The loop of a run, and the training of one run by it."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import jax

from bridgejax import data, runtime
from bridgejax.errors import TryAgain
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.mesh import any_process
from bridgejax.progress import progress
from bridgejax.recipes import Recipe
from bridgejax.training.batches import Array
from bridgejax.training.driver import RunDriver
from bridgejax.training.feed import Feed, PlacedBatch
from bridgejax.training.run_options import RunInputs, RunOptions, Streams
from bridgejax.training.run_record import RunResult
from bridgejax.training.stages import StagePlan
from bridgejax.training.step_block import BlockStepper
from bridgejax.training.train_step import Metrics

# Metrics stay on the device for this many steps at most, so that the host runs ahead but not away.
FETCH_EVERY = 10

T = TypeVar("T")


class Stepper(Protocol[T]):
    """Takes steps of one or more runs that are in the same stage at the same step."""

    runs: Sequence[RunDriver]  # the runs
    title: str  # what a progress bar calls them

    def batches(self, stop: int) -> Iterator[T]:
        """Yields what is left of the stage's batches up to step `stop`, one of every run at a time."""

    def place(self, batch: T) -> PlacedBatch:
        """Checks a batch and begins its transfer to the device."""

    def step(self, batch: PlacedBatch) -> Metrics:
        """Sends a step to the device and returns its metrics, which are not there yet."""

    def metrics_of(self, number: int, steps: Sequence[Metrics]) -> Sequence[Mapping[str, float]]:
        """Returns the metrics of run `number` out of those of all runs, which were fetched."""

    def share_states(self) -> None:
        """Gives each run its own state, as it is after the last step."""


def train_stage(stepper: Stepper[T], plan: StagePlan, stop: int, following: StagePlan | None = None) -> Iterator[None]:
    """Takes the stepper's runs to step `stop` of their stage, or to its early end, handing over after each step that was sent.

    Metrics are fetched, tests evaluated, checkpoints written and early stops decided here, for runs of every kind.

    Args:
      stepper: the runs, which have entered the stage.
      plan: the stage.
      stop: the step, counted over all stages, at most that of the stage's end.
      following: the next stage, if its streams should start shortly before this one's end.

    Raises:
      Diverged: a loss or a gradient is not finite.
      TryAgain: a signal asked the process to end; checkpoints are on their way.
    """
    runs, lead = stepper.runs, stepper.runs[0]
    feed = Feed(stepper.batches(stop), stepper.place)
    pending: list[Metrics] = []
    sent = 0  # steps that these are of
    clock = _Clock(runs)
    with progress(plan.stage.steps, stepper.title, "step", initial=lead.step - plan.start) as bar:
        for batch in feed:
            pending.append(stepper.step(batch))
            feed.fill(pending[-1]["loss"])
            sent += batch.steps
            for run in runs:
                run.advance(batch.steps)
            if following is not None and plan.end - lead.step <= FETCH_EVERY:
                for run in runs:
                    run.start_stream(following)
            clock.charge("train")
            yield  # other runs send theirs while this one's step is under way
            clock.restart()
            checks, evaluates = lead.step in plan.validation_checks, lead.step in lead.evaluation_steps
            saves, at_stop = lead.saves_after(lead.step), lead.step == stop
            # Several processes look at their signals together, where they meet anyway.
            asked = runtime.end_asked() if jax.process_count() == 1 or sent >= FETCH_EVERY else None
            if not (checks or evaluates or saves or at_stop or asked or sent >= FETCH_EVERY):
                continue
            bar.update(sent)
            fetched = jax.device_get(pending)
            pending, sent = [], 0
            clock.charge("train")
            for number, run in enumerate(runs):
                run.add_metrics(plan, stepper.metrics_of(number, fetched))
            clock.add("input_stall", feed.stall())
            if checks and lead.stops_early(plan):
                evaluates = any(lead.step <= step <= plan.end for step in lead.evaluation_steps)
                lead.record.step = plan.end
            clock.charge("evaluate")
            ends, due = any_process(runtime.end_asked() is not None, lead.checkpoint_is_due(plan))
            saves = saves or due or ends
            if evaluates or saves or at_stop:
                stepper.share_states()
            if evaluates:
                for run in runs:
                    run.evaluate(plan)
                clock.charge("evaluate")
            if saves:
                for run in runs:
                    run.save(plan)
            clock.charge("train")
            if ends:
                raise TryAgain(_end_of(lead))
            if lead.step == plan.end:
                break
    if lead.step not in (stop, plan.end):
        raise RuntimeError(f"the stream of {stepper.title} ended at step {lead.step} of {plan.end}")


def _end_of(run: RunDriver) -> str:
    """Returns the sentence about a run that ends at a scheduler's signal."""
    asked = runtime.end_asked() or "a signal to another process"
    saved = "its checkpoint is written" if run.inputs.directory is not None else "nothing is kept, for want of a directory"
    return (
        f"{asked} ended the training of {run.recipe.name!r} at step {run.step} of {run.recipe.steps}; {saved}, run the command "
        "again to go on."
    )


class SingleStepper:
    """Steps of one run, by a program of its own."""

    def __init__(self, run: RunDriver, plan: StagePlan) -> None:
        self.runs: Sequence[RunDriver] = (run,)
        self.title = run.title(plan)
        self._run, self._plan, self._step = run, plan, run.step_of(plan)

    def batches(self, stop: int) -> Iterator[dict[str, Array]]:
        return itertools.islice(self._run.batches(self._plan), stop - self._run.step)

    def place(self, batch: dict[str, Array]) -> PlacedBatch:
        return self._step.place(batch)

    def step(self, batch: PlacedBatch) -> Metrics:
        self._run.state, metrics = self._step(self._run.state, batch)
        return metrics

    def metrics_of(self, number: int, steps: Sequence[Metrics]) -> Sequence[Mapping[str, float]]:
        return [{name: float(value) for name, value in metrics.items()} for metrics in steps]

    def share_states(self) -> None:
        """The run holds its state already."""


def train_run(run: RunDriver, end: int | None = None, *, starts_next: bool = False) -> Iterator[None]:
    """Trains what is left of a run, or what is left up to step `end`, handing over after each step that was sent to the device.

    Args:
      run: the run.
      end: a step, counted over all stages.
      starts_next: start the stream of the next stage before a stage ends; only where no other run shares the streams.
    """
    for plan, following in itertools.zip_longest(run.plans, run.plans[1:]):
        stop = plan.end if end is None else min(end, plan.end)
        if run.step < stop:
            run.start_stream(plan)
            run.enter(plan)
            following = following if starts_next else None
            if run.takes_blocks(plan):
                yield from train_stage(BlockStepper(run, plan), plan, stop, following)
            else:
                yield from train_stage(SingleStepper(run, plan), plan, stop, following)


@under_jax_defaults
def train_recipe(recipe: Recipe, inputs: RunInputs, options: RunOptions, *, streams: Streams | None = None) -> RunResult:
    """Trains a model by a recipe and evaluates it on the test split.

    Called again with the same arguments after it was stopped, at any moment and by any means, it goes on from the last
    checkpoint and ends with the same numbers.

    Args:
      recipe: of `recipe_from_config`.
      inputs: the model, its images, the seed, the folder of its checkpoints.
      options: sizes, evaluations, checkpoints, mesh and dtype.
      streams: what gives batches; None means `bridgejax.data`.

    Raises:
      UserError: images that the recipe needs are missing, or the directory holds another run.
      Diverged: the loss or the gradient is no longer finite (the last checkpoint, from before, is kept).
      TryAgain: SIGTERM or SIGUSR1 came; a checkpoint of the step that was under way is written.
    """
    run = RunDriver(recipe, inputs, options, data if streams is None else streams)
    with runtime.listening(), contextlib.closing(run):
        run.resume()
        for _ in train_run(run, starts_next=True):
            pass
        return run.result()


class _Clock:
    """Adds time to the runs' accounts, each its share."""

    def __init__(self, runs: Sequence[RunDriver]) -> None:
        self._runs = runs
        self.restart()

    def restart(self) -> None:
        """Leaves out the time since the last call."""
        self._began = time.monotonic()

    def charge(self, account: str) -> None:
        """Adds the time since the last call to an account."""
        now = time.monotonic()
        self.add(account, now - self._began)
        self._began = now

    def add(self, account: str, seconds: float) -> None:
        for run in self._runs:
            run.record.seconds[account] += seconds / len(self._runs)
