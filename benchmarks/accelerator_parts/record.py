"""What a run has found so far: one JSON object per line, appended as soon as it is known.

Lines are of four kinds: "run" (a command began: its code, mode and options), "begin" and "end" of a part, and "row" (one
finding of a part). Rows of a part with the same "case" are one row of its table. Whatever cuts a run off, the lines before
stay; the next run into the same folder goes on where they end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass
class Found:
    """What is known of a part.

    Attributes:
      status: "done", "failed", "cut off" or "skipped"; "running" while it has not ended.
      why: one sentence where it is not done.
      seconds: that it took.
      rows: its findings, one per case, in the order in which they came.
    """

    status: str
    why: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    def take(self, row: Row) -> None:
        """Adds a finding, to the row of its case where there is one."""
        for known in self.rows:
            if known.get("case") == row.get("case"):
                known.update(row)
                return
        self.rows.append(dict(row))


class Record:
    """The file of a run's findings."""

    def __init__(self, file: Path):
        """Names the file; it is made with the first line."""
        self.file = file

    def add(self, kind: str, **content: Any) -> None:
        """Appends a line at once, whole: several processes may add to one file."""
        line = json.dumps({"kind": kind, **content}, ensure_ascii=False, default=str) + "\n"
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def lines(self) -> list[dict[str, Any]]:
        """Returns all lines; one that was cut off in the middle is left out."""
        found = []
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else ():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                found.append(value)
        return found

    def run(self) -> dict[str, Any]:
        """Returns the last "run" line, or an empty dict."""
        return next((line for line in reversed(self.lines()) if line["kind"] == "run"), {})

    def parts(self) -> dict[str, Found]:
        """Returns what is known of each part, by name; a part begun again shows what it found since.

        One that was skipped keeps what an earlier run found.
        """
        found: dict[str, Found] = {}
        for line in self.lines():
            name = line.get("part", "")
            if line["kind"] == "begin":
                found[name] = Found("running")
            elif line["kind"] == "row":
                found.setdefault(name, Found("running")).take(line["row"])
            elif line["kind"] == "end":
                part = found.setdefault(name, Found("running"))
                if line["status"] != "skipped" or not part.rows:
                    part.status, part.why, part.seconds = line["status"], line.get("why", ""), line.get("seconds", 0.0)
        return found

    def goes_on(self, mark: dict[str, Any]) -> bool:
        """Tells whether the last run had the same `mark` (code and mode), so that its findings go with new ones."""
        before = self.run()
        return all(before.get(key) == value for key, value in mark.items())

    def set_aside(self) -> None:
        """Renames the file, so that a run begins with nothing and no finding is lost."""
        if self.file.exists():
            self.file.replace(self.file.with_suffix(".before.jsonl"))

    def done(self) -> frozenset[str]:
        """Returns the parts that are whole."""
        return frozenset(name for name, part in self.parts().items() if part.status == "done")

    def value(self, part: str, case: str, key: str) -> Any:
        """Returns one finding, or None where it is not known."""
        rows: Sequence[Row] = found.rows if (found := self.parts().get(part)) else ()
        return next((row.get(key) for row in rows if row.get("case") == case), None)
