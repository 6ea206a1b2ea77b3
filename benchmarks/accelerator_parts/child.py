"""The process of one part: adds its rows to the record as they come, and how it ended.

python -m benchmarks.accelerator_parts.child RECORD CONTEXT
"""

from __future__ import annotations

import importlib
import sys
import time
import traceback
from pathlib import Path

from benchmarks.accelerator_parts.context import Context
from benchmarks.accelerator_parts.parts import PARTS
from benchmarks.accelerator_parts.record import Record


def sentence(error: BaseException) -> str:
    """Returns an error as one short sentence: its kind and the first line that says something, the last one of a process's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[-1 if isinstance(error, SystemExit) else 0][:300] if lines else ""
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def run(record: Record, context: Context) -> int:
    """Runs the part and records its rows and its end; returns the exit code."""
    began = time.monotonic()
    module = next(part.module for part in PARTS if part.name == context.part)
    try:
        for row in importlib.import_module(f"benchmarks.accelerator_parts.{module}").rows(context):
            record.add("row", part=context.part, row=row)
    except (Exception, SystemExit) as error:  # whatever went wrong is a result too, and the next part goes on
        traceback.print_exc()
        record.add("end", part=context.part, status="failed", why=sentence(error), seconds=time.monotonic() - began)
        return 1
    record.add("end", part=context.part, status="done", seconds=time.monotonic() - began)
    return 0


if __name__ == "__main__":
    sys.exit(run(Record(Path(sys.argv[1])), Context.from_json(sys.argv[2])))
