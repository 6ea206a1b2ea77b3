"""Batches of several runs out of one pipeline, where the streams can."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from bridgejax.data import Batch as StreamBatch
from bridgejax.training.driver import RunDriver
from bridgejax.training.feed import peeked
from bridgejax.training.stages import StagePlan, eval_part


class SharedPipelines:
    """Makes the shared streams of a group of runs, some of them on a thread while the runs train; a context manager."""

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> SharedPipelines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def share(self, plan: StagePlan, runs: Sequence[RunDriver]) -> None:
        """Gives the runs, all at the same step, their batches of a stage out of one pipeline."""
        if all(plan.number in run.feeds for run in runs):
            return  # prepared while the stage before trained
        make = _maker(plan, runs)
        if make is not None:
            for run, feed in zip(runs, make(), strict=True):
                run.feeds[plan.number] = feed

    def prepare(self, plan: StagePlan | None, runs: Sequence[RunDriver]) -> None:
        """Has that pipeline made, up to its first batch, while the runs train in the stage before; None: there is no stage."""
        make = None if plan is None else _maker(plan, runs)
        if plan is None or make is None:
            return
        made = self._pool.submit(lambda: [peeked(feed)[1] for feed in make()])

        def feed(number: int) -> Iterator[StreamBatch]:
            yield from made.result()[number]

        for number, run in enumerate(runs):
            run.feeds[plan.number] = feed(number)

    def share_evaluation(self, runs: Sequence[RunDriver]) -> None:
        """Gives the runs the batches of their evaluations out of one pipeline; they are made while the runs train."""
        make = None if len(runs) < 2 else getattr(runs[0].streams, "shared_eval_batches", None)
        tests = [eval_part(run.inputs.task, run.options.eval_split) for run in runs]
        if make is None or all(runs[0].caches_features(plan) for plan in runs[0].plans):
            return
        if any(run.crop != runs[0].crop or not run.evaluator.holds(test) for run, test in zip(runs, tests, strict=True)):
            return
        made = self._pool.submit(functools.partial(make, tests, **runs[0].evaluator.settings))
        for number, run in enumerate(runs):
            run.evaluator.shared_test_batches = functools.partial(_entry, made, number)


def _entry(made: concurrent.futures.Future[list[list[StreamBatch]]], number: int) -> list[StreamBatch]:
    return made.result()[number]


def _maker(plan: StagePlan, runs: Sequence[RunDriver]) -> Callable[[], list[Iterator[StreamBatch]]] | None:
    """Returns what makes the runs' streams of a stage, or None where they cannot come out of one pipeline."""
    shared = getattr(runs[0].streams, "shared_train_batches", None)
    if shared is None or len(runs) == 1 or any(run.caches_features(plan) for run in runs):
        return None
    settings: list[Mapping[str, object]] = [run.stream_settings(plan) for run in runs]
    common = {key: value for key, value in settings[0].items() if key not in ("sources", "seed")}
    sources, seeds = ([each[key] for each in settings] for key in ("sources", "seed"))
    return lambda: shared(sources, seeds=seeds, **common)
