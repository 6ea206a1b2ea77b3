"""Every row of docs/compatibility.md names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    line
    for line in (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| what |")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[:40])
def test_a_row_is_held_by_a_test(row: str) -> None:
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", row)
    assert named, row
    for file, test in named:
        place = ROOT / "tests" / (file if "/" in file else f"field/{file}")
        assert f"def {test}(" in place.read_text(encoding="utf-8"), (file, test)
