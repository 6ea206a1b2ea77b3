"""Gains by class in the summary and in both reports."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from bridgejax.report.gain_table import gain_rows
from bridgejax.report.gains import ClassGains
from bridgejax.report.summary import summarise as summarise_records
from bridgejax.report.write import write_report
from bridgejax.studies.run_results import RunResultRecord


def summarise(runs):
    return summarise_records([RunResultRecord.from_json(json.dumps(run)) for run in runs])


def test_gains_are_the_differences_of_the_accuracies_by_class(make_results):
    runs = make_results(seeds=3)
    gains = {each.arm: each for each in summarise(runs).class_gains}
    assert set(gains) == {"mixed", "bridged_plus_plus"}
    for arm, found in gains.items():
        means = [
            np.mean([run["per_class_accuracy"] for run in runs if run["arm"] == name], axis=0) for name in (arm, "vanilla_long")
        ]
        np.testing.assert_allclose(found.gain, means[0] - means[1])
        assert found.images == (12, 15, 18)
        assert all(low < gain < high for low, gain, high in zip(found.low, found.gain, found.high, strict=True))
        assert found.against == "vanilla_long"


def test_gains_stay_within_a_setting_and_many_arms_show_the_one_in_focus(make_results):
    summary = summarise(make_results(shots=(1, 4), seeds=2))
    assert [each.against for each in summary.class_gains] == ["vanilla_long (1 shot)"] * 2 + ["vanilla_long (4 shots)"] * 2
    arms = ("vanilla_long", "bridged", *(f"arm{number}" for number in range(9)))
    assert [each.arm for each in summarise(make_results(arms=arms, seeds=2)).class_gains] == ["bridged"]


def test_without_test_images_there_are_no_gains_and_with_one_seed_no_intervals(make_results):
    bare = [{key: value for key, value in run.items() if key != "test_labels"} for run in make_results(seeds=2)]
    assert summarise(bare).class_gains == ()
    assert summarise(make_results(seeds=1)).class_gains[0].low == (None,) * 3


def test_a_class_that_was_not_tested_has_a_dash(make_results):
    gains = ClassGains("x", "vanilla_long", (0.124, None), (0.03, None), (0.2, None), (9, 0))
    summary = dataclasses.replace(summarise(make_results(seeds=1)), classes=("a_b", "c"), class_gains=(gains,))
    assert gain_rows(summary) == [("a b", 9, (("+12", "+3 to +20", 1),)), ("c", 0, (("–", "", 0),))]


@pytest.mark.parametrize("seeds", [1, 3])
def test_both_reports_show_them(make_workdir, seeds):
    folder = make_workdir(seeds=seeds, classes=("bird", "<b>", "a|b"))
    page = write_report(folder).read_text()
    assert "Gain per class" in page
    assert '<th scope="row">&lt;b&gt;</th>' in page
    markdown = (folder / "report.md").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    block = markdown.partition("## Gain per class")[2].partition("##")[0]
    assert "a\\|b" in block
    first = summary["class_gains"][0]["gain"][0]
    assert f"{100 * first:+.0f}".replace("-", "−") in block
    assert ("95 % interval" in block) == (seeds > 1)
