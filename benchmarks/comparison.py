"""What the benchmarks that compare with PyTorch share: their options, the measuring of their cases, the keeping of figures."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.harness import Case, measure
from benchmarks.machine import facts, matrix_rates
from benchmarks.paired import Spread
from bridgejax.errors import UserError

REPEATS, QUICK_REPEATS = 5, 3


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the options that all of them take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="a short version; without --output it is printed and not kept")
    made.add_argument("--repeats", type=int, help=f"turns of each side ({REPEATS}, with --quick {QUICK_REPEATS})")
    made.add_argument("--output", type=Path, metavar="DIR", help="where the figures are kept (docs/results)")
    return made


def repeats(options: argparse.Namespace) -> int:
    """Returns the turns of each side.

    Raises:
      UserError: they are fewer than one.
    """
    count = options.repeats if options.repeats is not None else QUICK_REPEATS if options.quick else REPEATS
    if count < 1:
        raise UserError(f"--repeats is {count}; give a whole number from 1.")
    return count


def run(name: str, arguments: Sequence[str], options: argparse.Namespace, cases: Iterable[Case]) -> int:
    """Measures the cases, tells and keeps each as it comes, so that a long run may be stopped, and prints them at the end.

    Returns 1 if one of them failed.
    """
    count = repeats(options)
    run_of = {
        "command": f"python -m benchmarks {name}{_shown(arguments)}",
        "quick": options.quick,
        "repeats": count,
        "machine": {**facts(), "matrix_rates": matrix_rates(count)},
        "rows": [],
    }
    directory = options.output or (None if options.quick else results.DIRECTORY)
    failed = False
    with _empty_cache():
        for case in cases:
            try:
                row = measure(case, count)
            except UserError as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                failed = True
                continue
            run_of["rows"].append(row)
            print(_told(row), file=sys.stderr, flush=True)
            if directory is not None:
                results.keep(name, run_of, directory)
    if run_of["rows"]:
        print(results.section(run_of))
    return int(failed)


@contextlib.contextmanager
def _empty_cache() -> Iterator[None]:
    """Gives the processes that start meanwhile a cache folder of their own, empty at first, as bridgejax's commands use it."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    outer = os.environ.get("BRIDGEJAX_CACHE_DIR")
    for name in kept:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="bridgejax-cache-") as folder:
        os.environ["BRIDGEJAX_CACHE_DIR"] = folder
        try:
            yield
        finally:
            os.environ.update(kept)
            if outer is None:
                del os.environ["BRIDGEJAX_CACHE_DIR"]
            else:
                os.environ["BRIDGEJAX_CACHE_DIR"] = outer


def _told(row: Mapping[str, Any]) -> str:
    """Returns a row as a line to print while other rows are still being measured."""
    sides = [f"{side['name']} {Spread(**side['seconds']).shown()} s" for side in row["sides"]]
    return "; ".join([f"{row['what']}, batch {row['batch']}: {', '.join(sides)}", *row["notes"]])


def _shown(arguments: Sequence[str]) -> str:
    """Returns the arguments that decide what is measured, as they are typed: all but --output."""
    kept, skip = [], False
    for argument in arguments:
        if not (skip or argument.startswith("--output")):
            kept.append(argument)
        skip = argument == "--output"
    return f" {shlex.join(kept)}" if kept else ""
