"""The configs of the paper's tables and figures load in every variant, and what they cost is counted."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from bridgejax.config import load_config, set_config, to_plain
from bridgejax.errors import UserError
from bridgejax.papers import bridged_transfer as paper
from bridgejax.recipes import recipe_from_config

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs" / "bridged_transfer"
FILES = sorted(FOLDER.glob("*.py"))
NAMES = {"minimum_design", "table1_full", "table2_leep", "table3_dsi", "volume", "few_shot", "guidance", "architectures"}


def recipes(config):
    plain = to_plain(config)
    return {arm: recipe_from_config(arm, plain["recipes"], plain["training"]) for arm in config.arms}


def test_every_table_and_figure_has_its_file():
    assert {file.stem for file in FILES} == NAMES | {"convergence"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_variant_loads_and_says_what_the_paper_gives(file):
    for argument in paper.full_arguments(file):
        config = load_config(f"{file}:{argument}")
        assert paper.is_full(config)
        assert config.study.seeds >= 3
        assert recipes(config)
    small = load_config(f"{file}:embedded")
    assert to_plain(load_config(str(file))) == to_plain(small)
    assert small.task.source == "builtin:tux_photos"
    assert small.synthetic.per_class <= 100
    assert set(small.arms) == set(config.arms)
    assert load_config(f"{file}:folder:some/where").task.source == "folder:some/where"
    words = " ".join(file.read_text().split())
    assert "The paper" in words
    assert "not run" in words
    with pytest.raises(UserError, match="did you mean 'aircraft'"):
        load_config(f"{file}:aircrat")


def test_the_minimum_design_matches_every_arm_in_steps_and_has_a_control_without_images_for_each_part():
    config = load_config(str(FOLDER / "minimum_design.py"))
    found = recipes(config)
    assert len(found) == 14
    assert config.study.seeds >= 5
    steps = {arm: recipe.steps for arm, recipe in found.items()}
    assert {steps.pop("vanilla"), *steps.values()} == {20, 40}
    assert set(steps.values()) == {40}
    real_only = {arm for arm, recipe in found.items() if not recipe.needs_synthetic}
    assert real_only == {"vanilla", "vanilla_long", "vanilla_mixup", "real_reset_real"}
    # The arms on other images differ from ++ in nothing else, and from each other in the training of the word alone.
    worded = {arm: found[arm] for arm in found if any(found[arm].synthetic_sets)}
    assert sorted(recipe.synthetic_sets for recipe in worded.values()) == [("dsi",), ("untrained",)]
    for recipe in worded.values():
        plain = [dataclasses.replace(stage, synthetic_set="") for stage in recipe.stages]
        assert plain == list(found["bridged_plus_plus"].stages)
    learned, untrained = (set_config(config, name).inversion.to_dict() for name in ("dsi", "untrained"))
    assert {key for key in learned if learned[key] != untrained[key]} == {"mode"}


def test_a_cost_is_counted():
    rates = {"seconds_per_image": 2.0, "seconds_per_step": 0.1}
    table = FOLDER / "table1_full.py"
    config = load_config(f"{table}:cars")
    steps = config.training.base_steps
    found = paper.full_cost(table, ["cars"], **rates)
    assert found.images == 196 * 1000
    assert found.runs == 6 * 3
    assert found.steps == 3 * steps * (1 + 2 + 2 + 2 + 2 + 2)
    assert found.generation_hours == pytest.approx(196_000 * 2 / 3600)
    assert found.training_hours == pytest.approx(found.steps * 0.1 / 3600)
    both = paper.full_cost(table, ["cars", "dtd"], **rates)
    assert both.images == (196 + 47) * 1000
    # A learned or untrained word has a set for each of five draws.
    assert paper.full_cost(FOLDER / "minimum_design.py", ["dtd"], **rates).images == 47 * 1000 * (1 + 2 * 5)
    # A grid of volumes needs the largest set only.
    assert paper.full_cost(FOLDER / "volume.py", ["food"], **rates).images == 101 * 3000


def test_every_data_set_is_the_catalogues_and_few_shots_take_the_steps_of_few_images():
    for name, task in paper.DATA_SETS.items():
        assert load_config(f"{FOLDER / 'table1_full.py'}:{name}").task.source == f"task:{task.name}"
    whole = load_config(f"{FOLDER / 'table1_full.py'}:food").training.base_steps
    few = load_config(f"{FOLDER / 'few_shot.py'}:food").training.base_steps
    four, every = (load_config(f"{FOLDER / 'architectures.py'}:food,vit_b16,{shots}") for shots in ("4", "all"))
    assert (four.task.shots, every.task.shots) == (4, None)
    assert every.training.base_steps == whole == round(75 * 75750 / 64)
    assert few == round(75 * 16 * 101 / 64)
    assert four.training.base_steps == 1000


def test_the_page_of_costs_is_what_its_command_prints():
    page = (ROOT / "docs" / "results" / "paper_cost.md").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "paper_cost"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.strip() == page.strip()
