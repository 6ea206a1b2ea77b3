"""Which runs train at once."""

from __future__ import annotations

import pytest

from bridgejax.studies.run_groups import group_runs
from bridgejax.studies.study_plan import StudyRun

RUNS = [StudyRun(arm, seed, shots, 8) for shots in (1, 4) for arm in ("a", "b") for seed in range(3)]


@pytest.mark.parametrize(("size", "seeds"), [(1, [[0], [1], [2]]), (2, [[0, 1], [2]]), ("auto", [[0, 1, 2]])])
def test_a_group_differs_in_seeds_alone_and_is_no_larger_than_asked(size, seeds):
    groups = list(group_runs(RUNS, size))
    assert [run for group in groups for run in group] == RUNS
    assert all(len({(run.arm, run.shots, run.per_class) for run in group}) == 1 for group in groups)
    assert [[run.seed for run in group] for group in groups] == seeds * 4


def test_seeds_that_are_left_of_a_stopped_study_form_smaller_groups():
    left = [run for run in RUNS if run.seed != 1 or run.arm == "b"]
    assert [len(group) for group in group_runs(left, "auto")] == [2, 3, 2, 3]
