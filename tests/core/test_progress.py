"""progress.html: what it says of each process, that it needs nothing else, and that it stays out of the way."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jax  # noqa: F401 - imported before the clock starts
import pytest

from bridgejax import progress as progress_module
from bridgejax.progress import progress, shown_in, spent, tell_in


def page_with(folder: Path, words: str) -> str:
    """Waits until the page, which a thread writes, has these words."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if (folder / "progress.html").exists() and words in (text := (folder / "progress.html").read_text()):
            return text
        time.sleep(0.01)
    raise AssertionError(f"the page never had {words!r}")


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(progress_module, "_SECONDS_BETWEEN", 0.02)
    monkeypatch.setattr(progress_module, "_BEGAN", time.monotonic())  # as if the process had just started


def test_the_page_tells_rates_shards_and_where_time_went(tmp_path, capsys):
    other = {
        "process": "far:1",
        "updated": time.time() - 600,
        "seconds": {"start": 30.0, "generate": 90.0},
        "productive": 90.0,
        "made": {"generate": 12},
        "now": {
            **{"what": "generate", "unit": "img", "done": 12, "total": 50, "rate": 2.0, "failed": False, "retried": 0},
            "shards": [5, 1],
        },
        "stopped": None,
    }
    (tmp_path / ".tmp-progress-far:1.json").write_text(json.dumps(other))
    (tmp_path / ".tmp-.tmp-progress-far:1.json.0").touch()  # a process was killed while it wrote
    with shown_in(tmp_path):
        with progress(40, "generate", "img", 8, (10, 2)) as bar:
            time.sleep(0.1)
            bar.update(4)
            bar.shard_done()
            with spent("store"):
                running = page_with(tmp_path, "3 / 1 / 0, of 10")
        with progress(5, "bridged <b>, seed 0", "step") as bar:
            bar.update(5)
    assert 'http-equiv="refresh"' in running
    for words in (
        "far:1",
        "12 of 40 img",
        "12 of 50 img",
        "All: 24 of 90 img",
        "3 / 1 / 0, of 10",
        "1 / 1 / 0, of 5",
        "10 min",
    ):
        assert words in running, words
    page = (tmp_path / "progress.html").read_text()
    assert "refresh" not in page
    assert "finished" in page
    assert "prefers-color-scheme:dark" in page
    assert not [word for word in ("http:", "https:", "src=", "<script", "<link", "url(") if word in page]
    assert "generate 4, train 5" in page
    assert "<b>" not in page
    assert "store <small>(not productive)" in page
    assert [file.name for file in tmp_path.iterdir()] == ["progress.html"]
    assert "went into work (generate" in capsys.readouterr().err


def test_a_failure_is_shown_with_its_reason(tmp_path):
    def fails():
        with shown_in(tmp_path), progress(9, "generate", "img", 0, (3, 0)) as bar:
            bar.update(3)
            bar.shard_done()
            raise ValueError("the disk is <full>")

    with pytest.raises(ValueError, match="full"):
        fails()
    page = (tmp_path / "progress.html").read_text()
    assert "stopped" in page
    assert "the disk is &lt;full&gt;" in page
    assert "1 / 0 / 1, of 3" in page


def test_where_nothing_is_made_no_page_is_written_or_changed(tmp_path):
    with shown_in(tmp_path), progress(9, "generate", "img", 9):
        pass
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_not_the_first_leaves_its_file_for_the_page(tmp_path):
    (tmp_path / ".lock").touch()  # of the first, while it is at work
    with shown_in(tmp_path, first=False), progress(9, "generate", "img") as bar:
        bar.update(9)
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["made"] == {"generate": 9}
    file.unlink()
    (tmp_path / ".lock").unlink()
    with shown_in(tmp_path, first=False), progress(9, "generate", "img") as bar:
        bar.update(9)
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_stops_nothing(tmp_path):
    with shown_in(tmp_path / "gone"), progress(9, "generate", "img") as bar:
        bar.update(9)


def test_a_worker_tells_the_page_of_the_process_that_waits_for_it(tmp_path, monkeypatch):
    (tmp_path / ".lock").touch()
    tell_in(tmp_path)
    with progress(4, "generate", "img") as bar:
        bar.update(4)
    monkeypatch.setattr(progress_module, "_log", None)  # as if it were another process
    (file,) = tmp_path.glob("*.json")
    with shown_in(tmp_path), progress(2, "shard", "unit") as bar:
        bar.tried_again()
        bar.update(1)
        running = page_with(tmp_path, "1 of 2 unit")
        (tmp_path / ".lock").unlink()
    assert "shard, 1 tried again" in running
    assert "made: generate 4" in running
    assert "wait <small>(not productive)" in running
    assert not file.exists()
