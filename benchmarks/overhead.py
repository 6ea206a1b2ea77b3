"""What handing out shards costs beside the bare sampler, at two workers: processes of this machine, and Ray.

    python -m benchmarks overhead [--seconds 0.5] [--shards 6] [--repeats 3] [--engines processes ray] [--quick]

The sampler takes its time asleep, as a host does whose accelerator works, and returns 512×512 pictures; everything else is the
command's own: planning, PNGs, shards, checksums, syncs, and the engine. The bare sampler is the same calls in two processes
that keep nothing. Both are timed from each worker's first shard to its last, so that loading and compiling count on neither
side; the time that workers need to start is shown beside it. Sides take turns. Keeps docs/results/overhead.json and .md.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import facts, measured
from benchmarks.paired import Spread, ratio
from benchmarks.result_tables import table
from bridgejax import runtime
from bridgejax.config import Settings, load_config
from bridgejax.diffusion.pipeline import Pipeline
from bridgejax.errors import UserError
from bridgejax.executors import UnitJob, UnitOutcome
from bridgejax.executors.hand_out import Engine, carry_out
from bridgejax.executors.unit_calls import weight_digests
from bridgejax.studies.commands import generate
from bridgejax.studies.study_plan import StudyPlan
from bridgejax.studies.work_units import WorkUnit

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "overhead"
LIMITS = {"processes": 1.05, "ray": 1.10}
WORKERS, BATCH, SHARD, SIDE = 2, 8, 32, 512


class Asleep:
    """A sampler that takes `seconds` an image and no processor for it; unpickled, it takes the generator's place."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        rows = np.linspace(0, 1, SIDE, dtype=np.float32)
        self._picture = np.stack([rows[:, None] * rows, np.broadcast_to(rows, (SIDE, SIDE)), 1 - rows[:, None] * rows], axis=-1)

    def __reduce__(self) -> tuple[Any, ...]:
        return _installed, (self.seconds,)

    def __call__(self, prompts: Sequence[str], *, seeds: Sequence[int], **_: object) -> np.ndarray:
        """Returns float32 [n, 512, 512, 3] in [0, 1], that differ by their seeds."""
        began = time.perf_counter()
        images = np.stack([(self._picture + seed % 251 / 251) % 1 for seed in seeds])
        time.sleep(max(0.0, began + self.seconds * len(prompts) - time.perf_counter()))
        return images


def _installed(seconds: float) -> Asleep:
    sampler = Asleep(seconds)
    Pipeline.__call__ = lambda self, *given, **named: sampler(*given, **named)
    return sampler


def bare(seconds: float, shards: int) -> float:
    """Returns the seconds that two processes take for so many shards together, of the sampler's calls alone."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(WORKERS)]
    started = [context.Process(target=_bare, args=(there, seconds, shards // WORKERS)) for _, there in pairs]
    for process in started:
        process.start()
    for here, _ in pairs:
        here.recv()
    for here, _ in pairs:
        here.send(None)
    taken = [here.recv() for here, _ in pairs]
    for process in started:
        process.join()
    return statistics.mean(taken)


def _bare(connection: Connection, seconds: float, shards: int) -> None:
    sampler = Asleep(seconds)
    connection.send(None)
    connection.recv()
    began = time.perf_counter()
    for number in range(0, shards * SHARD, BATCH):
        sampler(["a photo"] * BATCH, seeds=range(number, number + BATCH))
    connection.send(time.perf_counter() - began)


@dataclasses.dataclass(frozen=True)
class Job(UnitJob):
    """A job that brings the sampler to its workers."""

    sampler: Asleep = dataclasses.field(default_factory=lambda: Asleep(0.5))


def handed_out(engine_name: str, seconds: float, shards: int) -> tuple[float, float]:
    """Has a set of so many shards, and one more for each worker, made by an engine.

    Returns:
      The seconds until each worker's first shard was there, and from then until its last; means over the workers.

    Raises:
      RuntimeError: the workers began so far apart that one had made two shards before the other had made one.
    """
    images = (shards + WORKERS) * SHARD
    overrides = {
        **{"task.source": "classes", "task.class_names": "cat,dog", "synthetic.per_class": images // 2},
        **{"synthetic.shard_size": SHARD, "generator.batch_size": BATCH, "generator.height": SIDE, "generator.width": SIDE},
        **{"executor": engine_name, "executor_options.workers": WORKERS},
    }
    quick_start = str(ROOT / "configs" / "quickstart.py")
    settings = Settings.of(load_config(quick_start, [(key, str(value)) for key, value in overrides.items()]))
    module = {"processes": "process_engine", "ray": "ray_engine"}[engine_name]
    engine: Engine = importlib.import_module(f"bridgejax.executors.{module}").engine
    ends: list[float] = []

    def hand_out(plan: StudyPlan, workdir: Path, units: Sequence[WorkUnit]) -> None:
        began = time.perf_counter()

        def timed(job: UnitJob, queue: deque[WorkUnit]) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
            for ended in engine(job, queue):
                ends.append(time.perf_counter() - began)
                yield ended

        carry_out(timed, Job(settings, workdir.resolve(), weights=weight_digests(plan), sampler=Asleep(seconds)), units)

    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        generate(settings, Path(folder) / "work", hand_out)
    first, last = ends[:WORKERS], ends[-WORKERS:]
    if len(ends) != shards + WORKERS or first[-1] - first[0] > seconds * SHARD:
        raise RuntimeError(f"{engine_name}: the workers did not make one shard each first ({ends}); measure again.")
    return statistics.mean(first), statistics.mean(last) - statistics.mean(first)


def page(run: dict[str, Any]) -> str:
    """Returns a run in Markdown."""
    heads = [
        "workers by",
        "seconds of sampling and handing out",
        "÷ the bare sampler's",
        "at most",
        "until the first shards, s",
    ]
    rows = [
        [name, Spread(**row["seconds"]).shown(), Spread(**row["ratio"]).shown(4), f"{LIMITS[name]:.2f}", f"{row['start']:.1f}"]
        for name, row in run["engines"].items()
    ]
    text = [
        "# What handing out shards costs\n",
        measured(run),
        f"Two workers make {run['shards']} shards of {SHARD} images of {SIDE}×{SIDE}; the sampler sleeps {run['seconds']:g} s "
        f"an image. The same calls alone take {Spread(**run['bare']).shown(4)} s. Medians with the least and the greatest of "
        f"{run['repeats']} turns.\n",
        *table(heads, rows),
    ]
    return "\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and keeps; returns 1 where an engine takes more than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks overhead", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--seconds", type=float, default=0.5, help="that the sampler sleeps for an image; default 0.5")
    add("--shards", type=int, default=6, help="that are timed, an even number; default 6")
    add("--repeats", type=int, default=3, help="turns; default 3")
    add("--engines", nargs="+", choices=tuple(LIMITS), default=tuple(LIMITS), help="default both")
    add("--quick", action="store_true", help="processes alone, two shards once; the results are left as they are")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds, options.shards, options.repeats, options.engines = 0.1, 2, 1, ("processes",)
    if options.shards < WORKERS or options.shards % WORKERS:
        raise UserError(f"--shards is {options.shards}; give an even number of at least {WORKERS}.")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["RAY_ADDRESS"] = "local"  # one of its own, whatever cluster this machine is part of
    runtime.start(alone=True)
    load = [os.getloadavg()[0]]
    alone: list[float] = []
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in options.engines}
    for _ in range(options.repeats):
        alone.append(bare(options.seconds, options.shards))
        for name in options.engines:
            found[name].append(handed_out(name, options.seconds, options.shards))
    engines = {
        name: {
            "seconds": vars(Spread.of([taken for _, taken in times])),
            "ratio": vars(ratio([taken for _, taken in times], alone)),
            "start": statistics.median(start for start, _ in times),
        }
        for name, times in found.items()
    }
    run = {
        "command": f"python -m benchmarks overhead --seconds {options.seconds:g} --shards {options.shards} "
        f"--repeats {options.repeats}",
        **{"seconds": options.seconds, "shards": options.shards, "repeats": options.repeats},
        **{"bare": vars(Spread.of(alone)), "engines": engines, "load": [*load, os.getloadavg()[0]], "machine": facts()},
    }
    text = page(run)
    print(text)
    if not options.quick:
        RESULTS.with_suffix(".json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        RESULTS.with_suffix(".md").write_text(text, encoding="utf-8")
    return int(any(row["ratio"]["median"] > LIMITS[name] for name, row in engines.items()))
