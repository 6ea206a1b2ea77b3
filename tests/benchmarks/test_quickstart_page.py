"""The quick start's page: what an earlier call measured stays, what no part makes any more goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import quickstart


def test_parts_that_were_not_measured_stay_and_unknown_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "quickstart.md"
    page.write_text(
        "# Quick start\n\n## Quick start\n\nold time\n\n## Trained on generated images alone\n\nold\n\n## Gone\n\nx\n"
    )
    monkeypatch.setattr(quickstart, "RESULTS", page)
    monkeypatch.setattr(quickstart, "machine", lambda: "2 CPU cores")
    quickstart.write_results({"quickstart": ["| new |"]})
    text = page.read_text()
    assert "| new |" in text
    assert "## Trained on generated images alone\n\nold\n" in text
    assert "old time" not in text
    assert "Gone" not in text
