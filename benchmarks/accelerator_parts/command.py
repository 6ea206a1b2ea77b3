"""The command: runs the parts one after the other and keeps what they find."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.accelerator_parts import page
from benchmarks.accelerator_parts.budget import Budget, Part
from benchmarks.accelerator_parts.context import Context
from benchmarks.accelerator_parts.parts import NAMES, PARTS
from benchmarks.accelerator_parts.record import Record

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
SECONDS, SMOKE_SECONDS = 520.0, 170.0
_UNOPTIMISED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
_LEAST = 5.0  # of any part in a smoke run
_LOOK = 0.5  # seconds between two looks at a part


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks accelerator", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="every part with tiny shapes, on whatever device there is")
    parser.add_argument(
        "--budget", type=float, help=f"seconds in all; default {SECONDS:.0f} ({SMOKE_SECONDS:.0f} with --smoke)"
    )
    parser.add_argument("--output", type=Path, help="folder of the results; default docs/results (a new one with --smoke)")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="PART", help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--fresh", action="store_true", help="begin anew instead of keeping parts that are whole already")
    options = parser.parse_args(arguments)
    if options.budget is None:
        options.budget = SMOKE_SECONDS if options.smoke else SECONDS
    if not options.budget > 0:
        parser.error(f"--budget is {options.budget:g}; give a number of seconds above 0.")
    if options.output is None:
        options.output = Path(tempfile.mkdtemp(prefix="accelerator-")) if options.smoke else RESULTS
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 if no part failed."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(given)
    budget = Budget(options.budget)
    options.output.mkdir(parents=True, exist_ok=True)
    record = Record(options.output / "accelerator.jsonl")
    mark = {"code": code_digest(), "smoke": options.smoke}
    if options.fresh or not record.goes_on(mark):
        record.set_aside()
    whole = record.done()
    command = shlex.join(["python", "-m", "benchmarks", "accelerator", *given])
    record.add("run", **mark, command=command, budget=options.budget, started=time.strftime("%Y-%m-%d %H:%M:%S"))
    asked = [part for part in PARTS if part.name in (options.only or NAMES)]
    wanted = [replace(part, least=_LEAST) if options.smoke else part for part in asked if part.name not in whole]
    for part in asked:
        if part.name in whole:
            print(f"{part.name}: kept from before", flush=True)
    with tempfile.TemporaryDirectory() as scratch, _ended_by_signal():
        for number, part in enumerate(wanted):
            began = time.monotonic()
            run_part(part, wanted[number + 1 :], budget, record, options.smoke, scratch)
            told = record.parts()[part.name]
            why = f": {told.why}" if told.why else ""
            print(f"{part.name}: {told.status}, {len(told.rows)} rows, {time.monotonic() - began:.1f} s{why}", flush=True)
    page.write(record, PARTS)
    print(f"{options.budget - budget.left():.0f} s in all; {record.file.with_suffix('.md')}", flush=True)
    return int(any(record.parts()[part.name].status == "failed" for part in wanted))


def code_digest() -> str:
    """Returns the SHA-256 of the code that is measured: results of other code are not kept."""
    from bridgejax.identity import folder_digest

    names = [file.relative_to(ROOT).as_posix() for room in ("bridgejax", "benchmarks") for file in (ROOT / room).rglob("*.py")]
    return folder_digest(ROOT, sorted(names))


def run_part(part: Part, later: Sequence[Part], budget: Budget, record: Record, smoke: bool, scratch: str) -> None:
    """Runs a part in a process of its own until it ends or its seconds are over, and keeps the page up to date."""
    share = budget.share(part, later)
    if share.why:
        record.add("end", part=part.name, status="skipped", why=share.why)
        page.write(record, PARTS)
        return
    rate = record.value("facts", "bfloat16 matrices", "TFLOP/s")
    context = Context(part.name, smoke, time.time() + share.seconds, rate, scratch)
    record.add("begin", part=part.name)
    log = Path(scratch) / f"{part.name}.log"
    began = time.monotonic()
    child = [sys.executable, "-m", "benchmarks.accelerator_parts.child", str(record.file.resolve()), context.to_json()]
    code = follow(child, log, share.seconds, environment(smoke), record.file, lambda: page.write(record, PARTS))
    if record.parts()[part.name].status == "running":
        seconds = time.monotonic() - began
        if code is None:
            record.add("end", part=part.name, status="cut off", why=f"its {share.seconds:.0f} s were over", seconds=seconds)
        else:
            why = f"its process ended with code {code}: {telling_line(log)}"
            record.add("end", part=part.name, status="failed", why=why, seconds=seconds)
    page.write(record, PARTS)
    if record.parts()[part.name].status == "failed":
        shutil.copy(log, record.file.with_name(f"accelerator.{part.name}.log"))
        sys.stderr.write(log.read_text(errors="replace")[-3000:])


def environment(smoke: bool) -> dict[str, str]:
    """Returns the environment of a part; in a smoke run XLA takes no time to make programs quick."""
    found = dict(os.environ)
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), found.get("PYTHONPATH")]))
    if smoke:
        found["XLA_FLAGS"] = f"{found.get('XLA_FLAGS', '')} {_UNOPTIMISED}".strip()
    return found


def follow(
    command: Sequence[str],
    log: Path,
    seconds: float,
    variables: Mapping[str, str],
    watched: Path,
    changed: Callable[[], None],
) -> int | None:
    """Runs a command, with all it starts, for so many seconds at most.

    Args:
      command: its words.
      log: takes what it prints.
      seconds: after which it is killed.
      variables: its environment.
      watched: a file.
      changed: called whenever it has grown.

    Returns:
      Its exit code, or None if it was killed.
    """
    end, size = time.monotonic() + seconds, -1
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=variables, cwd=ROOT, start_new_session=True)
        try:
            while time.monotonic() < end:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(min(_LOOK, max(0.0, end - time.monotonic())))
                if watched.stat().st_size != size:
                    size = watched.stat().st_size
                    changed()
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the group is this process's own: what it started goes with it
            process.wait()


def telling_line(log: Path) -> str:
    """Returns the line with which XLA aborted the process, or the last one; below XLA's stands nothing but a stack."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in lines if "Check failed" in line), lines[-1])[:300]


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Lets SIGTERM end the command as an exception does, so that no child outlives it."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
