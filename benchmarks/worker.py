"""The child's side of a benchmark: a process that prepares one call and times it when it is asked to.

    python -m benchmarks.worker MODULE:FUNCTION

The parent (`benchmarks.harness.Worker`) writes requests to its stdin, one JSON object a line, and reads one answer to each:

    {"do": "prepare", "given": {…}}   FUNCTION(**given) makes a `Prepared`, whose first call is timed: it compiles
    {"do": "run", "calls": n}         the seconds of each of n calls, the share of the machine that other programs took
                                      meanwhile, and the process's peak memory so far
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.memory import is_out_of_memory, peak_memory
from benchmarks.peers import missing
from benchmarks.processors import Clock


@dataclass(frozen=True)
class Prepared:
    """What is timed.

    Attributes:
      call: one call; its work is finished when it returns.
      sample: from the first call's result to a few numbers, by which the parent sees that both sides did the same.
      told: what else the parent should know, as JSON.
    """

    call: Callable[[], Any]
    sample: Callable[[Any], Iterable[float]] = lambda result: ()
    told: Mapping[str, Any] = field(default_factory=dict)


class Server:
    """Answers the requests for one function."""

    def __init__(self, function: Callable[..., Prepared]):
        """Takes the function that prepares."""
        self._function = function
        self._prepared: Prepared | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the answer to a request; {"error": kind, "text": …} if it fails, kind "missing", "memory" or "failed"."""
        try:
            return self._prepare(request["given"]) if request["do"] == "prepare" else self._run(request["calls"])
        except Exception as error:
            if text := missing(error):
                return {"error": "missing", "text": text}
            traceback.print_exc()
            kind = "memory" if is_out_of_memory(error) else "failed"
            return {"error": kind, "text": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"}

    def _prepare(self, given: Mapping[str, Any]) -> dict[str, Any]:
        prepared = self._function(**given)
        seconds, result = _timed(prepared.call)
        self._prepared = prepared
        sample = [float(value) for value in prepared.sample(result)]
        return {"first_seconds": seconds, "sample": sample, "told": dict(prepared.told)}

    def _run(self, calls: int) -> dict[str, Any]:
        if self._prepared is None:
            raise RuntimeError("nothing was prepared")
        began = Clock.now()
        seconds = [_timed(self._prepared.call)[0] for _ in range(calls)]
        return {"seconds": seconds, "others": Clock.now().others_since(began), "peak_bytes": peak_memory()}


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def main() -> None:
    """Answers until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    module, _, name = sys.argv[1].partition(":")
    server = Server(getattr(importlib.import_module(module), name))
    for line in sys.stdin:
        print(json.dumps(server.answer(json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
