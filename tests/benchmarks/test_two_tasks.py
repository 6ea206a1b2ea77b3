"""What the page of the two photographic tasks says, and how the tuning's record chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tuning, two_tasks

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"


def _task(differences: dict[str, dict[str, tuple[float, float]]], control: dict[str, float]) -> dict[str, Any]:
    """A task whose arms have these intervals of differences by shots; images alone reach 50 %."""

    def told(mean: float, ends: tuple[float, float] | None = None) -> dict[str, Any]:
        value = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
        gap = {} if ends is None else {"minus_control": {"mean": sum(ends) / 2, "low": ends[0], "high": ends[1]}}
        return {"mean_per_class": value, "top1": value, "test_images": 90.0, **gap}

    arms = {"vanilla_long": {shots: told(mean) for shots, mean in control.items()}}
    for arm, by_shots in differences.items():
        mean = {shots: 0.5 if arm == "synthetic_only" else control[shots] + sum(by_shots[shots]) / 2 for shots in by_shots}
        arms[arm] = {shots: told(mean[shots], ends) for shots, ends in by_shots.items()}
    return {"classes": ["bird", "fish"], "seeds": 10, "over": "seeds and test images", "arms": arms}


CONTROL = {"1": 0.4, "8": 0.8}
GOOD = {"1": (0.1, 0.2), "8": (-0.1, 0.05)}
LOST = {"1": (-0.01, 0.2), "8": (-0.3, -0.1)}


def test_the_page_begins_with_where_images_help_and_why_they_stop() -> None:
    tasks = {name: _task({"mixed_50": GOOD, "synthetic_only": LOST}, CONTROL) for name in two_tasks.TITLES}
    text = two_tasks.page({"command": "python -m benchmarks two_tasks", "machine": "2 CPU cores", "tasks": tasks})
    first = text.split("\n\n")[1]
    assert "`mixed_50` is significantly better than the control on both tasks with 1 photograph per class" in first
    assert "and not shown to be better or worse with 8 photographs per class. `synthetic_only` is" in first
    assert "`synthetic_only` is not shown to be better or worse with 1 photograph per class and significantly worse" in first
    assert "So `mixed_50` is the recipe to take" in first
    assert "alone teach 50.0 % mean per class; the control passes that at 8 photographs per class" in first
    assert "| 1 | 90 | 40.0 (30.0 to 50.0) | +15.0 (+10.0 to +20.0) |" in text


def test_an_arm_that_loses_on_one_task_is_not_recommended() -> None:
    tasks = {"photos": _task({"mixed_50": GOOD}, CONTROL), "gcompris": _task({"mixed_50": LOST}, CONTROL)}
    assert two_tasks.verdicts(tasks, "mixed_50") == {"better": [], "partly": ["1"], "worse": ["8"], "open": []}
    assert "no recipe here is both" in two_tasks.conclusion(tasks)[0]


def test_an_arm_that_helps_on_one_task_and_loses_on_none_is_recommended_as_such() -> None:
    larger = {"1": (-0.05, 0.3), "8": (-0.1, 0.05)}
    tasks = {
        "photos": _task({"bridged": GOOD, "mixed_50": GOOD}, CONTROL),
        "gcompris": _task({"bridged": {"1": (-0.1, 0.2), "8": (-0.1, 0.05)}, "mixed_50": larger}, CONTROL),
    }
    said = two_tasks.conclusion(tasks)[0]
    assert "`mixed_50` is significantly better than the control on one of the two tasks with 1 photograph per class" in said
    assert "So `mixed_50` is the recipe to take: it helps on one of the two tasks where photographs are fewest" in said


def test_the_best_candidate_of_a_recipe_is_that_over_all_shots() -> None:
    lines = [
        {"arm": arm, "shots": shots, tuning.METRIC: value}
        for arm, shots, value in (
            ("bridged-1e-3-40", 1, 0.5),
            ("bridged-1e-3-40", 4, 0.6),
            ("bridged-3e-3-40", 1, 0.3),
            ("bridged-3e-3-40", 4, 0.7),
            ("mixed_50-3e-3-40", 1, 0.1),
            ("mixed_50-3e-3-40", 4, 0.2),
        )
    ]
    found = tuning.candidates(lines)
    assert [entry["best"] for entry in found] == [True, False, True]
    text = tuning.page({"rates": {"title": "T", "config": "C", "settings": ["--s"], "candidates": found}})
    assert "| bridged-1e-3-40 | 50.0 | 60.0 | **55.0** |" in text
    assert "`C --s`, 1 seed" in text


def test_all_arms_take_the_length_that_is_best_over_them_each_at_its_rate_of_that_length() -> None:
    means = {"a-1e-3-40": 0.9, "a-3e-3-40": 0.2, "a-1e-3-80": 0.5, "a-3e-3-80": 0.8, "b-1e-3-40": 0.1, "b-3e-3-80": 0.6}
    rates = [{"candidate": name, "recipe": name[0], "mean": mean} for name, mean in means.items()]
    assert tuning.taken(rates) == ("80", {"a": "3e-3", "b": "3e-3"})


@pytest.mark.parametrize("part", sorted({part.config for part in tuning.PARTS.values()}))
def test_every_part_of_the_tuning_gives_each_recipe_as_many_candidates(part: str) -> None:
    from bridgejax.config import load_config

    config = load_config(f"{ROOT}/{part}")
    counts: dict[str, int] = {}
    for arm in (arm for arm in config.arms if config.recipes[arm]):  # what takes no step has nothing to choose
        recipe = arm.partition("-")[0]
        counts[recipe] = counts.get(recipe, 0) + 1
    assert len(set(counts.values())) == 1
    assert config.study.baseline in config.arms
    assert part == "configs/quickstart.py" or config.task.source == "folder:emoji_task"  # `tuning.run` names the task for all


def test_two_tasks_has_ten_seeds_and_the_settings_of_the_quick_start() -> None:
    from bridgejax.config import load_config

    quick, both = load_config(f"{CONFIGS}/quickstart.py"), load_config(f"{CONFIGS}/two_tasks.py:folder:X")
    assert (both.task.source, both.study.seeds, tuple(both.study.shots)) == ("folder:X", 10, (1, 2, 4, 8))
    assert all(both.recipes[arm] == quick.recipes[arm] for arm in both.arms)


def test_a_small_part_is_run_and_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[list[str]] = []
    monkeypatch.setattr(two_tasks, "machine", lambda: "2 CPU cores")
    monkeypatch.setattr(two_tasks.subprocess, "run", lambda command, **_: runs.append(command))
    monkeypatch.setattr(two_tasks, "figures", lambda _: _task({"mixed_50": GOOD}, CONTROL))
    monkeypatch.setattr("bridgejax.report.summary.summarise", lambda *_, **__: type("S", (), {"to_dict": dict})())
    monkeypatch.setattr("bridgejax.studies.run_results.read_results", lambda _: [])
    output = tmp_path / "two.json"
    two_tasks.main(["--seeds", "1", "--shots", "1", "--workdirs", str(tmp_path), "--output", str(output)])
    assert [command[command.index("--workdir") + 1] for command in runs] == [str(tmp_path / name) for name in two_tasks.TITLES]
    assert all("--config.study.seeds=1" in command for command in runs)
    assert json.loads(output.read_text())["command"] == "python -m benchmarks two_tasks --seeds 1 --shots 1"
    assert output.with_suffix(".md").read_text().startswith("# What synthetic images are worth")


def test_every_arm_of_the_quick_start_takes_as_many_steps_and_a_rate_that_was_tried() -> None:
    from bridgejax.config import Settings, load_config
    from bridgejax.studies.tuned_rates import study_recipes

    recipes = study_recipes(Settings.of(load_config(f"{CONFIGS}/quickstart.py")))
    tried = study_recipes(Settings.of(load_config(f"{CONFIGS}/tuning.py")))
    assert len({recipe.steps for recipe in recipes.values()}) == 1
    for arm, recipe in recipes.items():
        candidates = {(e.stages[0].learning_rate, e.steps) for name, e in tried.items() if name.startswith(f"{arm}-")}
        assert (recipe.stages[0].learning_rate, recipe.steps) in candidates
