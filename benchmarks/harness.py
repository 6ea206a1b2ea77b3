"""Times bridgejax beside PyTorch: each in a process of its own, in turns, on the same inputs."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.paired import Spread, ratio
from bridgejax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
# Thread pools go on spinning for up to 0.2 s after their last work; the other side's turn begins when they sleep.
REST_SECONDS = 0.3
# A turn makes as many calls as take this long; their median is the turn's time.
TURN_SECONDS, TURN_CALLS = 0.5, 20


class WorkerFailed(UserError):
    """A side stopped with an error."""


class MissingPackage(WorkerFailed):
    """A side needs a package that is not installed; the message says which, and how to install it."""


class OutOfMemory(WorkerFailed):
    """A side's memory ran out, or the system ended it for that."""


_KINDS = {"missing": MissingPackage, "memory": OutOfMemory}


class Worker:
    """The parent's side of a process that runs `benchmarks.worker`."""

    def __init__(self, target: str, environment: Mapping[str, str] | None = None):
        """Starts the process for a target such as "benchmarks.classifiers:ours"; `environment` adds to this process's own."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.target = target
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (close() closes it)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
        )

    def prepare(self, **given: Any) -> dict[str, Any]:
        """Has the call prepared and made once; returns its "first_seconds", "sample" and what the side "told".

        Raises:
          WorkerFailed: it failed; see the subclasses.
        """
        return self._ask({"do": "prepare", "given": given})

    def run(self, calls: int) -> dict[str, Any]:
        """Returns the "seconds" of each of so many calls, the share of the machine that "others" took, and "peak_bytes".

        Raises:
          WorkerFailed: it failed; see the subclasses.
        """
        return self._ask({"do": "run", "calls": calls})

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        line = ""
        if self._process.stdin is not None and self._process.stdout is not None:
            try:
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except BrokenPipeError:
                line = ""
        if not line:
            raise self._died()
        answer = json.loads(line)
        if "error" in answer:
            raise _KINDS.get(answer["error"], WorkerFailed)(answer["text"])
        return answer

    def _died(self) -> WorkerFailed:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return OutOfMemory("the system killed the process (signal 9), as it does when memory runs out")
        self._log.seek(0)
        last = (self._log.read().strip().splitlines() or ["it said nothing"])[-1]
        return WorkerFailed(f"the process of {self.target} ended with exit code {code} ({last})")


@dataclass(frozen=True)
class Side:
    """One of those that are compared.

    Attributes:
      name: as tables call it.
      target: the function that prepares it, "MODULE:FUNCTION".
      given: its arguments, as JSON; the batch size comes to them as `batch`.
      caches: its first process keeps compiled programs on disk. That process is timed alone; the second one takes the turns.
    """

    name: str
    target: str
    given: Mapping[str, Any] = field(default_factory=dict)
    caches: bool = False


@dataclass(frozen=True)
class Case:
    """A row of a benchmark: ours and its peers, doing the same work.

    Attributes:
      key: tells the row from others; a later measurement of the same key takes its place.
      what: as tables call it.
      batch: images at once.
      ours: our side.
      peers: those it is compared with.
      tolerance: how far samples may lie apart, as a share of the largest value (at least 1).
      flops: floating-point operations of a call at a batch; None: as a peer counted them.
      flops_by: how they were counted.
    """

    key: str
    what: str
    batch: int
    ours: Side
    peers: Sequence[Side]
    tolerance: float
    flops: Callable[[int], float] | None = None
    flops_by: str = ""


def measure(case: Case, repeats: int, start: Callable[[str], Worker] = Worker) -> dict[str, Any]:
    """Returns what was measured of a case, as JSON; where a batch does not fit into memory, at the largest half that does.

    Raises:
      UserError: our side failed, a peer computed something else, or not even one image fits.
    """
    batch, notes = case.batch, []
    while True:
        try:
            found = _measure(case, batch, repeats, start)
        except OutOfMemory as error:
            if batch == 1:
                raise OutOfMemory(f"{case.what}: not even a batch of 1 fits into this machine's memory ({error}).") from error
            notes.append(f"a batch of {batch} does not fit into this machine's memory ({error})")
            batch //= 2
        else:
            if notes:
                notes.append(f"a batch of {batch} fits")
            return {**found, "notes": [*notes, *found["notes"]]}


def _measure(case: Case, batch: int, repeats: int, start: Callable[[str], Worker]) -> dict[str, Any]:
    notes: list[str] = []
    workers: dict[str, Worker] = {}
    first: dict[str, dict[str, Any]] = {}
    alone: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        for side in (case.ours, *case.peers):
            if side.caches:
                alone[side.name] = _first_process(side, batch, start)
            worker = stack.enter_context(start(side.target))
            try:
                first[side.name] = worker.prepare(**side.given, batch=batch)
            except OutOfMemory:
                raise
            except WorkerFailed as error:
                if side is case.ours:
                    raise WorkerFailed(f"{case.what}: {side.name} failed ({error}).") from error
                worker.close()
                notes.append(f"{side.name} was not measured: {error}")
                continue
            workers[side.name] = worker
        _check_same(case, first)
        timed = interleaved(workers, repeats)
    counted = [found["told"]["flops"] for found in first.values() if "flops" in found["told"]]
    flops = case.flops(batch) if case.flops else next(iter(counted), None)
    mine = timed[case.ours.name].seconds
    sides = []
    for name, turns in timed.items():
        told: dict[str, Any] = {
            "name": name,
            "seconds": vars(Spread.of(turns.seconds)),
            "turns": turns.seconds,
            "calls": turns.calls,
            "others": turns.others,
            "first_seconds": first[name]["first_seconds"],
            "peak_bytes": turns.peak_bytes,
            **alone.get(name, {}),
        }
        if name != case.ours.name:
            told["ratio"] = vars(ratio(mine, turns.seconds))
        sides.append(told)
    about = {"key": case.key, "what": case.what, "batch": batch, "flops": flops, "flops_by": case.flops_by}
    return {**about, "sides": sides, "notes": notes}


def _first_process(side: Side, batch: int, start: Callable[[str], Worker]) -> dict[str, float]:
    """Returns how long a side's first call took with nothing in the cache folder, and a later call in the same process."""
    with start(side.target) as worker:
        found = worker.prepare(**side.given, batch=batch)
        once = worker.run(1)["seconds"][0]
        later = worker.run(min(TURN_CALLS, math.ceil(TURN_SECONDS / max(once, 1e-6))))
    return {"first_seconds": found["first_seconds"], "first_process_seconds": statistics.median(later["seconds"])}


def _check_same(case: Case, first: Mapping[str, Mapping[str, Any]]) -> None:
    ours = first[case.ours.name]["sample"]
    for name, found in first.items():
        theirs = found["sample"]
        scale = max([1.0, *map(abs, theirs)])
        apart = max((abs(a - b) / scale for a, b in zip(ours, theirs, strict=True)), default=0.0)
        if not apart <= case.tolerance or not math.isfinite(sum(ours)):
            raise WorkerFailed(
                f"{case.what}: {case.ours.name} and {name} do not compute the same (apart by {apart:.1e} of the largest value, "
                f"allowed are {case.tolerance:g}), so comparing their times would mean nothing."
            )


@dataclass
class Turns:
    """What was timed of a side.

    Attributes:
      seconds: the median of a call in each turn.
      calls: how many a turn makes.
      others: the share of the machine that other programs took while it worked, the median over turns; None if unknown.
      peak_bytes: the peak memory of its process.
    """

    seconds: list[float] = field(default_factory=list)
    calls: int = 1
    others: float | None = None
    peak_bytes: int = 0


def interleaved(workers: Mapping[str, Worker], repeats: int, rest: float = REST_SECONDS) -> dict[str, Turns]:
    """Times prepared workers in turns, A B A B …, after one turn each that does not count; returns what each took, by name."""
    timed = {name: Turns() for name in workers}
    shares: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(repeats + 1):
        for name, worker in workers.items():
            time.sleep(rest)
            turns, told = timed[name], worker.run(timed[name].calls)
            turns.peak_bytes = told["peak_bytes"]
            if number:
                turns.seconds.append(statistics.median(told["seconds"]))
                if told["others"] is not None:
                    shares[name].append(told["others"])
            else:
                turns.calls = min(TURN_CALLS, math.ceil(TURN_SECONDS / max(told["seconds"][0], 1e-6)))
    for name, turns in timed.items():
        turns.others = statistics.median(shares[name]) if shares[name] else None
    return timed
