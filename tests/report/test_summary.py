"""The summary's figures and the words made of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bridgejax.errors import UserError
from bridgejax.report.phrases import finding, findings, recipe_words
from bridgejax.report.summary import summarise as summarise_records
from bridgejax.studies.run_results import RunResultRecord, read_results

METRIC = "test_mean_per_class_accuracy"


def summarise(runs, **options):
    return summarise_records([RunResultRecord.from_json(json.dumps(run)) for run in runs], **options)


def test_means_and_differences_are_those_of_the_runs(make_results):
    runs = make_results()
    summary = summarise(runs).to_dict()
    level = {arm: np.mean([run[METRIC] for run in runs if run["arm"] == arm]) for arm in summary["order"]}
    for arm, value in level.items():
        assert summary["arms"][arm][METRIC]["mean"] == pytest.approx(value)
    pairs = {(d["arm"], d["against"]): d[METRIC] for d in summary["differences"]}
    assert set(pairs) == {("mixed", "vanilla_long"), ("bridged_plus_plus", "vanilla_long"), ("bridged_plus_plus", "mixed")}
    for (arm, against), found in pairs.items():
        assert found["mean"] == pytest.approx(level[arm] - level[against])
        assert found["low"] < found["mean"] < found["high"]
        assert found["seeds"] == 3


def test_confusion_is_summed_and_classes_are_averaged(make_results):
    runs = make_results(seeds=2)
    entry = summarise(runs).to_dict()["arms"]["mixed"]
    mine = [run for run in runs if run["arm"] == "mixed"]
    np.testing.assert_array_equal(entry["confusion"], np.asarray(mine[0]["confusion"]) + mine[1]["confusion"])
    assert entry["per_class_accuracy"] == pytest.approx(tuple(np.mean([run["per_class_accuracy"] for run in mine], axis=0)))
    assert entry["seconds"]["train"] == pytest.approx(4.0)


@pytest.mark.parametrize("restart", [False, True])
def test_curve_runs_over_all_stages_and_marks_the_switch(make_results, restart):
    """Whether a run counts its steps over all stages or afresh in each."""
    runs = make_results(seeds=2)
    for run in runs:
        for entry in run["history"]:
            entry["step"] -= 10 * (restart and entry["stage"] == 1)
    entry = summarise(runs).to_dict()["arms"]["mixed"]
    assert [point["step"] for point in entry["curve"]] == [5, 10, 15, 20]
    assert entry["switches"] == (10,)
    last = [run[METRIC] for run in runs if run["arm"] == "mixed"]
    assert entry["curve"][-1]["mean"] == pytest.approx(np.mean(last))
    assert entry["curve"][-1]["sd"] == pytest.approx(np.std(last, ddof=1))


def test_a_study_of_several_shot_counts_compares_within_each(make_results):
    summary = summarise(make_results(shots=(1, 4)))
    assert "mixed (1 shot)" in summary.order
    assert all(summary.arms[each.arm].shots == summary.arms[each.against].shots for each in summary.differences)
    text = finding(summary)
    assert "With 1 shot, bridged_plus_plus is" in text
    assert "With 4 shots, bridged_plus_plus is" in text


def _shots_study(make_results, better):
    """Two arms at 1, 4 and 8 shots; in the settings that `better` names, `mixed` answers every image right."""
    runs = make_results(arms=("vanilla_long", "mixed"), seeds=6, shots=(1, 4, 8), curves=False)
    plain = {(run["shots"], run["seed"]): run for run in runs if run["arm"] == "vanilla_long"}
    keys = ("test_accuracy", METRIC, "correct", "confusion", "per_class_accuracy")
    for run in runs:
        if run["arm"] == "mixed":
            run.update({key: plain[run["shots"], run["seed"]][key] for key in keys})
            if run["shots"] in better:
                run.update(dict.fromkeys(("test_accuracy", METRIC), 1.0), correct=[1] * len(run["correct"]))
    return findings(summarise(runs))


@pytest.mark.parametrize(
    ("better", "start"),
    [
        (
            (1,),
            "Synthetic images help with 1 shot; with 4 shots and 8 shots, no arm with them is significantly better: ",
        ),
        (
            (1, 8),
            "Synthetic images help with 1 shot and 8 shots; with 4 shots, no arm with them is significantly better: ",
        ),
        ((1, 4, 8), "Synthetic images help with 1 shot, 4 shots and 8 shots: mixed is at +"),
        ((), "With 1 shot, 4 shots and 8 shots, no arm with synthetic images is significantly above vanilla_long: mixed is at"),
    ],
)
def test_the_first_sentence_says_at_which_shots_synthetic_images_help(make_results, better, start):
    first, *settings = _shots_study(make_results, better)
    assert first.startswith(start)
    assert "95\u202f% interval" in first
    assert first.endswith("against vanilla_long in mean per-class accuracy.")
    assert len(settings) == 3
    for shots, sentence in zip((1, 4, 8), settings, strict=True):
        assert sentence.startswith(f"With {shots} shot")
        assert ("points above vanilla_long" in sentence) == (shots in better)


def test_an_arm_without_synthetic_images_is_no_help_of_theirs(make_results):
    runs = make_results(arms=("vanilla_long", "vanilla_mixup"), seeds=6, shots=(1, 4))
    assert findings(summarise(runs))[0].startswith("With 1 shot and 4 shots, no arm with synthetic images is")


def test_the_same_runs_give_the_same_summary(make_results):
    runs = make_results()
    assert summarise(runs) == summarise(json.loads(json.dumps(runs)))


def test_finding_says_above_below_and_open(make_results):
    clear = finding(summarise(make_results(seeds=6)))
    assert "bridged_plus_plus is" in clear
    assert "points above vanilla_long" in clear
    assert "6 seeds, paired" in clear
    below = finding(summarise(make_results(arms=("bridged_plus_plus", "mixed", "vanilla_long"), seeds=6)))
    assert "points below vanilla_long" in below
    runs = make_results(seeds=6, arms=("vanilla_long",))
    runs += [{**run, "arm": "mixed"} for run in runs]
    assert finding(summarise(runs)).startswith(
        "The difference between mixed and vanilla_long in mean per-class accuracy is not significant"
    )


def test_finding_owns_up_to_one_seed_few_seeds_one_arm_and_a_missing_control(make_results):
    assert "one seed gives no interval" in finding(summarise(make_results(seeds=1)))
    assert "only 2 seeds" in finding(summarise(make_results(seeds=2)))
    assert "seeds the intervals" not in finding(summarise(make_results(seeds=3)))
    assert "nothing to compare" in finding(summarise(make_results(arms=("mixed",))))
    assert "The control vanilla_long was not run" in finding(summarise(make_results(arms=("vanilla", "mixed"))))


def test_many_arms_are_compared_with_the_baseline_alone(make_results):
    arms = ("vanilla_long", *(f"arm{i}" for i in range(11)))
    summary = summarise(make_results(arms=arms, seeds=2), pairs=[("arm3", "arm1")])
    assert len(summary.differences) == 12
    assert summary.differences[-1].arm == "arm3"


def test_a_class_that_a_run_did_not_test_is_left_out_of_its_mean(make_results):
    runs = make_results(seeds=2, arms=("mixed",))
    runs[0]["per_class_accuracy"][1] = None
    runs[1]["per_class_accuracy"][1] = 0.25
    assert summarise(runs).arms["mixed"].per_class_accuracy[1] == 0.25


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        *((None, "is missing"), ("", "holds no runs"), ('{"arm": "x"}\n', "line 1"), ("{\n", "line 1")),
        ('{"arm": "x", "seed": "x", "test_accuracy": 0.5, "test_mean_per_class_accuracy": 0.5}\n', "line 1"),
        ('{"arm": "x", "seed": 0, "test_accuracy": null, "test_mean_per_class_accuracy": 0.5}\n', "line 1"),
    ],
)
def test_unreadable_results_are_told_in_one_sentence(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(UserError, match=complaint) as caught:
        read_results(tmp_path)
    assert "run" in str(caught.value)


def test_recipes_in_words():
    stages = [{"data": "synthetic", "mixup_alpha": 0.2}, {"data": "real", "reset": "head"}]
    assert recipe_words(stages) == "synthetic with Mixup → new head → real"
    assert recipe_words("nonsense") == ""
