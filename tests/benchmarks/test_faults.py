"""The campaign of faults: one of each kind leaves nothing, and what would be left is counted."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from benchmarks.fault_kinds import KINDS, Left, Truth, call, make
from benchmarks.faults import COUNTED, fast, section


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return Truth.make(tmp_path_factory.mktemp("faults"))


def test_one_fault_of_each_kind_leaves_nothing(tmp_path: Path) -> None:
    found = fast(len(KINDS), seed=3, end=time.monotonic() + 300, root=tmp_path)
    assert {name: (tally.faults, tally.notes) for name, tally in found.items()} == {name: (1, []) for name in KINDS}
    kinds = {name: vars(tally) for name, tally in found.items()}
    text = section({"command": "faults", "seconds": 60.0, "machine": {"cpu": "a CPU", "cores": 2}, "kinds": kinds})
    assert f"| **all** | **{len(KINDS)}** |  | {' | '.join('0' * len(COUNTED))} |" in text


def test_what_is_lost_doubled_or_different_is_counted(truth: Truth, tmp_path: Path) -> None:
    assert truth.judge(truth.folder) == Left()
    assert call(partial(make, tmp_path / "set")).code == 0
    first, second, third = (tmp_path / "set" / f"bridgejax_synthetic-train.tfrecord-0000{k}" for k in range(3))
    second.write_bytes(first.read_bytes())
    left = truth.judge(tmp_path / "set")
    assert (left.lost, left.doubled, left.different, left.clean) == (2, 2, 0, False)
    third.unlink()
    (tmp_path / "set" / ".tmp-left").touch()
    left = truth.judge(tmp_path / "set")
    assert (left.lost, left.litter) == (4, 1)
