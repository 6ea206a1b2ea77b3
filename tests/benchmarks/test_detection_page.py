"""The figures of the detection benchmark and what its page says of them."""

from __future__ import annotations

import pytest

from benchmarks import detection
from bridgejax.errors import UserError


def result(ap50, rate=0.001):
    return {"ap50": ap50, "average_precision": {"bird": ap50, "tool": 0.0}, "settings": {"learning_rate": rate}}


RUNS = {
    "random": [result(0.1), result(0.2), result(0.3)],
    "weights": [result(0.5, 0.002), result(0.61, 0.002), result(0.72, 0.002)],
    "synthetic": [result(0.2), result(0.1), result(0.3)],
}
TUNING = {arm: {"0.001": 0.25, "0.002": 0.5} for arm in RUNS}


def test_differences_are_paired_and_intervals_are_students():
    found = detection.figures(RUNS, TUNING)
    assert found["random"]["ap50"] == pytest.approx({"mean": 0.2, "low": 0.2 - 4.302653 * 0.057735, "high": 0.448413}, abs=1e-5)
    gain = found["weights"]["minus_random"]
    assert gain["mean"] == pytest.approx(0.41)
    assert gain["low"] == pytest.approx(0.41 - 4.302653 * 0.01 / 3**0.5)
    assert found["weights"]["by_class"] == pytest.approx({"bird": 0.61, "tool": 0})
    assert detection.estimate([0.4]) == {"mean": 0.4, "low": None, "high": None}


def test_the_page_says_what_is_significant():
    record = {"command": "python -m benchmarks detection", "machine": "2 CPU cores", "seeds": 3, "images": 9, "boxes": 20}
    record |= {"steps": 500, "batch_size": 16, "side": 128, "arms": detection.figures(RUNS, TUNING)}
    text = detection.page(record)
    assert "`weights` − `random`: +41.0 (+38.5 to +43.5) points, significantly better." in text
    assert "`synthetic` − `weights`: −41.0 (" in text
    assert "points, significantly worse." in text
    assert "points, not shown to be better or worse." in text
    assert text.count(" points") == 3  # no difference of an arm to itself
    assert "| weights | 61.0 (" in text
    assert "| 0.002 | 0.001: 25.0, 0.002: 50.0 |" in text
    assert "| bird | 20.0 | 61.0 | 20.0 |" in text


def test_further_backbones_are_named():
    assert detection.backbones(["mine=a=b"])["mine"] == {"weights": "a=b"}
    for text in ("folder", "random=folder", "=folder", "mine="):
        with pytest.raises(UserError, match="no new NAME=FOLDER"):
            detection.backbones([text])
