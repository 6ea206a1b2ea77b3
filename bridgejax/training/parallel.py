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

import concurrent.futures
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from bridgejax.errors import UserError
from bridgejax.progress import progress, stage_heading
from bridgejax.recipes import Recipe
from bridgejax.training import stages
from bridgejax.training.feed import Feed
from bridgejax.training.loop import check_sizes, checked_crop, named_sets
from bridgejax.training.memory import free_bytes
from bridgejax.training.run import FETCH_EVERY, Run, RunResult
from bridgejax.training.stacked import StackedStep, stack, unstack
from bridgejax.training.stages import Plan
from bridgejax.training.traced import checked_dtype

WAYS = ("vmap", "interleave")


@dataclasses.dataclass(frozen=True)
class Lane:
    """What differs between the runs of a group; the names are those of `train_recipe`'s arguments."""

    model: nnx.Module
    task: Any
    seed: int
    synthetic: Any = None
    directory: Path | None = None


def train_together(
    recipe: Recipe,
    lanes: Sequence[Lane],
    *,
    batch_size: int,
    eval_batch_size: int = 64,
    image_size: int,
    crop: float | None = None,
    evaluations: int | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 60.0,
    keep_final: bool = True,
    mesh: Mesh | None = None,
    streams: Any = None,
    how: str | None = None,
    memory_bytes: int | None = None,
    dtype: Any = None,
    remat: bool = False,
) -> list[RunResult]:
    """Trains a recipe from several models at once and judges each on its own test part.

    Called again after it was stopped, at any moment, it goes on from each run's last checkpoint.

    Args:
      recipe, batch_size, eval_batch_size, image_size, crop, evaluations, checkpoint_every, checkpoint_seconds, keep_final,
        streams, dtype, remat: as `train_recipe` takes them, for each run.
      lanes: the runs. Their models have one structure, differ in weights as they like, and are not changed.
      mesh: of one device and one process, or None.
      how: one of `WAYS`; None means "interleave" on a CPU and "vmap" elsewhere. A stage that stops early is interleaved:
        its runs end at different steps.
      memory_bytes: what the vmapped program may take; None means what is free on the device. If it takes more by XLA's own
        account (arguments, results and temporaries, less what they share), as many runs at a time as fit are vmapped.

    Returns:
      A `RunResult` per lane. "seconds" are each run's share of the time.

    Raises:
      UserError: as `train_recipe`, and if the models differ in structure or the mesh has several devices.
    """
    if how not in (None, *WAYS):
        raise UserError(f"how is {how!r}; use one of {', '.join(WAYS)}, or None.")
    if (mesh is not None and mesh.size > 1) or jax.process_count() > 1:
        raise UserError("seeds train together on one device only; set study.parallel_seeds=1 on a mesh of several.")
    check_sizes(batch_size, eval_batch_size, None)
    if streams is None:
        from bridgejax import data as streams
    runs: list[Run] = []
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    try:
        for lane in lanes:
            images = named_sets(lane.synthetic)
            stages.check_sources(recipe, lane.task, images, None)
            stages.check_model(recipe, lane.model)
            run = Run(
                recipe,
                lane.model,
                lane.task,
                images,
                batch_size,
                eval_batch_size,
                image_size,
                lane.seed,
                mesh,
                None,
                streams,
                checked_dtype(dtype),
                remat,
            )
            run.plan_evaluations(evaluations, None)
            run.crop = run.crop if crop is None else checked_crop(crop)
            runs.append(run)
            if lane.directory is not None:
                run.keep_checkpoints(lane.directory, checkpoint_every, checkpoint_seconds, keep_final)
        _share_evaluation([run for run in runs if run.step < run.total], pool)
        way = how or ("interleave" if jax.default_backend() == "cpu" else "vmap")
        plans = stages.plans(recipe)
        for plan, following in zip(plans, [*plans[1:], None], strict=True):
            left = [run for run in runs if run.step < plan.end]
            # The next stage is prepared if all go through this one, and so enter that one at its first step.
            _stage(plan, following if left == runs else None, left, way, memory_bytes, pool)
        return [run.result() for run in runs]
    finally:
        pool.shutdown(cancel_futures=True)
        for run in runs:
            run.close()


def _stage(
    plan: Plan, following: Plan | None, runs: list[Run], way: str, memory_bytes: int | None, pool: concurrent.futures.Executor
) -> None:
    """Takes the runs to the stage's end; if they train all at once, has the `following` one prepared meanwhile."""
    if not runs:
        return
    everyone = runs
    # After a stop the runs may lie a few steps apart; those behind catch up with the one in front. An early stop may end them.
    front = max(run.step for run in runs)
    _interleave([run.work(front) for run in runs])
    runs = [run for run in runs if run.step < plan.end]
    size = len(runs) if way == "vmap" and plan.stage.early_stop is None else 1
    while size > 1:
        # Of one pipeline for those that go in step alone: it would keep every batch for a run that waits.
        group = runs[:size]
        _share_stream(plan, group)
        streams = [_Peeked(run.batches(plan)) for run in group]
        for run in group:
            run.enter(plan)
        step = StackedStep(stages.train_step(plan.stage, None, group[0].dtype, group[0].remat))
        needed = step.prepare([run.current for run in group], [stream.first for stream in streams])
        limit = free_bytes() if memory_bytes is None else memory_bytes
        if needed > limit:
            fits = min(size - 1, int(limit * size / needed))
            _tell(size, fits, needed, limit)
            size, following = fits, None
            continue
        _prepare(following, everyone, pool)
        _vmapped(plan, group, streams, step)
        runs = runs[size:]
        size = min(size, len(runs))
    if runs:
        _share_stream(plan, runs)
        _prepare(following, everyone, pool)
        _interleave([run.work(plan.end) for run in runs])


def _share_stream(plan: Plan, runs: list[Run]) -> None:
    """Gives the runs, all at the same step, their batches of the stage out of one pipeline, where the streams can."""
    if all(plan.number in run.feeds for run in runs):
        return  # prepared while the stage before trained
    make = _pipeline(plan, runs)
    if make is None:
        return
    for run, feed in zip(runs, make(), strict=True):
        run.feeds[plan.number] = feed


def _prepare(plan: Plan | None, runs: list[Run], pool: concurrent.futures.Executor) -> None:
    """Has that pipeline made, up to its first batch, while the runs train in the stage before; None: there is no stage."""
    make = None if plan is None else _pipeline(plan, runs)
    if plan is None or make is None:
        return
    made = pool.submit(lambda: [_Peeked(feed).all for feed in make()])

    def feed(number: int) -> Iterator[Any]:
        yield from made.result()[number]

    for number, run in enumerate(runs):
        run.feeds[plan.number] = feed(number)


def _pipeline(plan: Plan, runs: list[Run]) -> Callable[[], list[Iterator[Any]]] | None:
    """Returns what makes the runs' streams of a stage, or None where they cannot come out of one pipeline."""
    together = getattr(runs[0].streams, "shared_train_batches", None)
    if together is None or len(runs) == 1:
        return None
    settings = [run.stream_settings(plan) for run in runs]
    common = {key: value for key, value in settings[0].items() if key not in ("sources", "seed")}
    sources, seeds = ([each[key] for each in settings] for key in ("sources", "seed"))
    return lambda: together(sources, seeds=seeds, **common)


def _share_evaluation(runs: list[Run], pool: concurrent.futures.Executor) -> None:
    """Gives the runs the batches of their test parts out of one pipeline, where the streams can; made while they train."""
    together = None if len(runs) < 2 else getattr(runs[0].streams, "shared_eval_batches", None)
    if together is None or any(run.crop != runs[0].crop or not run.held(run.task.test) for run in runs):
        return
    made = pool.submit(together, [run.task.test for run in runs], **runs[0].eval_settings())
    for number, run in enumerate(runs):
        run.eval_feed = functools.partial(lambda position: made.result()[position], number)


class _Peeked:
    """A stream of which the first batch was looked at."""

    def __init__(self, stream: Iterator[dict[str, Any]]) -> None:
        self.first = next(stream)
        self.all = itertools.chain([self.first], stream)


def _interleave(work: Iterable[Iterator[None]]) -> None:
    """Sends a step of each run to the device in turns, until all are done."""
    waiting = list(work)
    while waiting:
        left = []
        for steps in waiting:
            try:
                next(steps)
            except StopIteration:
                continue
            left.append(steps)
        waiting = left


def _tell(seeds: int, fits: int, needed: int, limit: int) -> None:
    stage_heading(
        f"  {seeds} seeds at once take {needed / 2**30:.2f} GiB ({needed / seeds / 2**20:.0f} MiB each), "
        f"{limit / 2**30:.2f} GiB are free: {f'{fits} at a time' if fits > 1 else 'one by one'}"
    )


def _vmapped(plan: Plan, runs: list[Run], streams: list[_Peeked], step: StackedStep) -> None:
    """Takes the runs, all at the same step, to the stage's end with one program."""
    lead = runs[0]
    states = stack([run.current for run in runs])
    _release(runs)
    pending: list[dict[str, jax.Array]] = []
    together = zip(*[stream.all for stream in streams], strict=True)
    feed = Feed(itertools.islice(together, plan.end - lead.step), step.place)
    began = time.monotonic()
    with progress(plan.stage.steps, f"{lead.title(plan)}, {len(runs)} seeds", "step", initial=lead.step - plan.start) as bar:
        for batches in feed:
            states, metrics = step(states, batches)
            feed.fill()
            pending.append(metrics)
            for run in runs:
                run.step += 1
                run.stage_steps[-1] += 1
            looks, by_steps, _ = lead.wants(plan)
            if not (looks or by_steps or lead.step == plan.end or len(pending) >= FETCH_EVERY):
                continue
            bar.update(len(pending))
            told = jax.device_get(pending)
            pending = []
            for number, run in enumerate(runs):
                run.record(plan, [{name: np.asarray(value)[number] for name, value in each.items()} for each in told])
            saves = by_steps or lead.checkpoint_is_due(plan)
            if not (looks or saves or lead.step == plan.end):
                continue
            for run, state in zip(runs, unstack(states, len(runs)), strict=True):
                run.state = state
            _share(runs, "train", time.monotonic() - began)
            _share(runs, "input_stall", feed.stall())
            for run in runs:
                if looks:
                    run.evaluate(plan)
            began = time.monotonic()
            for run in runs:
                if saves:
                    run.save(plan)
            if lead.step != plan.end:
                _release(runs)
    _share(runs, "train", time.monotonic() - began)
    _share(runs, "input_stall", feed.stall())
    if lead.step != plan.end:
        raise RuntimeError(f"the stream of {lead.title(plan)} ended at step {lead.step} of {plan.end}")


def _release(runs: list[Run]) -> None:
    """Drops the runs' own states: the stacked one goes on."""
    for run in runs:
        run.state = None


def _share(runs: list[Run], name: str, seconds: float) -> None:
    for run in runs:
        run.seconds[name] += seconds / len(runs)
