"""The one entry of all benchmarks.

    python -m benchmarks list                        # every benchmark, and which have a short version
    python -m benchmarks NAME [--quick] [OPTIONS]    # one; NAME --help tells its options
    python -m benchmarks all --quick [--output DIR]  # every short version, one after the other: about ten minutes on two cores
    python -m benchmarks page [--output DIR]         # docs/performance.md, from what was measured

Run it from a clone of the repository.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.entries import Entry, entries, find
from bridgejax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def call(entry: Entry, arguments: Sequence[str]) -> int:
    """Runs a benchmark in this process and returns its exit code.

    Raises:
      UserError: a short version is asked for that does not exist.
    """
    if "--quick" in arguments and not entry.quick:
        raise UserError(f"{entry.name} has no short version: {entry.why_not}; leave out --quick.")
    return importlib.import_module(f"benchmarks.{entry.name}").main(list(arguments)) or 0


def call_all(arguments: Sequence[str]) -> int:
    """Runs every short version in a process of its own; returns 1 if one of them failed.

    Raises:
      UserError: --quick is missing, since the full versions take many hours.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks all", description="Runs every short version.")
    parser.add_argument("--quick", action="store_true", help="the short versions; there is no other `all`")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep what is measured there, as JSON and Markdown")
    options = parser.parse_args(arguments)
    if not options.quick:
        raise UserError("all full versions take many hours; write `python -m benchmarks all --quick`, or name one.")
    failed = []
    for entry in entries():
        if not entry.quick:
            print(f"{entry.name}: left out, {entry.why_not}", flush=True)
            continue
        command = [sys.executable, "-m", "benchmarks", entry.name, "--quick"]
        if options.output and entry.keeps_json:
            command += ["--output", str(options.output.resolve())]
        print(f"== {entry.name}: {entry.quick}", flush=True)
        began = time.perf_counter()
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        ended = "done" if code == 0 else f"failed with exit code {code}"
        print(f"== {entry.name}: {ended} after {time.perf_counter() - began:.0f} s", flush=True)
        if code:
            failed.append(entry.name)
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return int(bool(failed))


def listing() -> str:
    """Returns a line for each benchmark: its name, what it measures, and its short version or why it has none."""
    found = entries()
    width = max(len(entry.name) for entry in found)
    lines = []
    for entry in found:
        short = f"--quick: {entry.quick}" if entry.quick else f"not in `all --quick`: {entry.why_not}"
        lines += [f"{entry.name:{width}}  {entry.summary}", f"{'':{width}}  {short}"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says and returns the exit code: 2 for a wrong input, told in one sentence."""
    name, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    try:
        if name in ("--help", "-h"):
            print(__doc__)
        elif name == "list":
            print(listing())
        elif name == "all":
            return call_all(rest)
        elif name == "page":
            from benchmarks import page

            return page.main(rest)
        else:
            return call(find(name), rest)
    except UserError as error:
        print(f"benchmarks: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
