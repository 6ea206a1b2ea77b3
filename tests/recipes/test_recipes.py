"""Recipes as data: lengths, defaults, and what a wrong one says."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from bridgejax.errors import UserError
from bridgejax.recipes import CLASSIFIER_TUNING, CONTROLS, all_recipes, control_recipes, default_recipes, recipe_from_config

TRAINING = {"steps": None, "base_steps": 30, "learning_rate": 0.02, "optimizer": "adamw", "batch_size": 8}


def test_the_default_arms_differ_in_what_they_are_named_for():
    recipes = {name: recipe_from_config(name, default_recipes(), TRAINING) for name in default_recipes()}
    assert {name: [stage.data for stage in recipe.stages] for name, recipe in recipes.items()} == {
        "vanilla": ["real"],
        "vanilla_long": ["real"],
        "synthetic_only": ["synthetic"],
        "mixed": ["mixed"],
        "bridged": ["synthetic", "real"],
        "bridged_reset": ["synthetic", "real"],
        "bridged_plus_plus": ["synthetic", "real"],
    }
    assert [stage.reset for stage in recipes["bridged_reset"].stages] == ["none", "head"]
    first, second = recipes["bridged_plus_plus"].stages
    assert first.mixup_alpha > 0
    assert (second.mixup_alpha, second.reset) == (0, "head")
    assert recipes["mixed"].stages[0].synthetic_share is None
    for recipe in recipes.values():
        assert all((stage.learning_rate, stage.optimizer) == (0.02, "adamw") for stage in recipe.stages)


@pytest.mark.parametrize("steps", [None, 7])
def test_the_control_takes_as_many_steps_as_bridged_however_lengths_are_set(steps):
    training = {**TRAINING, "steps": steps}
    table = default_recipes()
    each = 30 if steps is None else 7
    assert recipe_from_config("vanilla", table, training).steps == each
    for name in ("bridged", "bridged_reset", "bridged_plus_plus", "vanilla_long", "mixed"):
        assert recipe_from_config(name, table, training).steps == 2 * each, name
    table["bridged"] = [{"data": "synthetic", "steps": 50}, {"data": "real", "length": 0.5}]
    assert recipe_from_config("vanilla_long", table, training).steps == (65 if steps is None else 11)


MORE_STEPS = {"bridged_first_double": 3, "bridged_early_stop": 3, "vanilla": 1, "vanilla_epochs": 1}


@pytest.mark.parametrize("steps", [2, 3, 15, 31])
def test_every_recipe_of_the_matrix_is_built_and_matched_in_steps_but_for_those_that_say_so(steps):
    table = all_recipes()
    for name in {*table} - {*CLASSIFIER_TUNING}:
        recipe = recipe_from_config(name, table, {**TRAINING, "base_steps": steps})
        assert recipe.steps == MORE_STEPS.get(name, 2) * steps, name


def test_controls_differ_from_their_twin_in_one_thing():
    table = all_recipes()

    def stages(name):
        return [dataclasses.asdict(stage) for stage in recipe_from_config(name, table, TRAINING).stages]

    def differing(one, other):
        pairs = zip(stages(one), stages(other), strict=True)
        return [{key for key in a if a[key] != b[key]} for a, b in pairs]

    assert differing("real_reset_real_mixup", "bridged_plus_plus") == [{"data"}, set()]
    assert differing("real_reset_real", "bridged_reset") == [{"data"}, set()]
    assert differing("bridged_mixup", "bridged") == [{"mixup_alpha"}, set()]
    assert differing("bridged_mixup", "bridged_plus_plus") == [set(), {"reset"}]
    assert differing("vanilla_mixup", "vanilla_long") == [{"mixup_alpha"}]
    assert differing("mixed_mixup", "mixed") == [{"mixup_alpha"}]
    assert differing("bridged_reset_2_blocks", "bridged_reset") == [set(), {"reset"}]
    assert differing("bridged_frozen", "bridged") == [set(), {"trainable"}]
    assert differing("bridged_low_rate", "bridged") == [set(), {"learning_rate"}]
    assert differing("mixed_50", "mixed_loss_50") == [{"synthetic_loss"}]
    assert [stages(f"mixed_{share}")[0]["synthetic_share"] for share in (10, 25, 50, 90)] == [0.1, 0.25, 0.5, 0.9]
    assert stages("bridged_low_rate")[1]["learning_rate"] == pytest.approx(0.002)
    assert [stage["reset"] for stage in stages("scratch_bridged_plus_plus")] == ["all", "head"]


def test_the_two_readings_of_an_equal_budget():
    table = all_recipes()
    table["bridged"] = [{"data": "synthetic", "steps": 40}, {"data": "real", "length": 2.0}]
    training = {**TRAINING, "base_steps": 25}
    assert recipe_from_config("vanilla_long", table, training).steps == 40 + 50  # equal optimiser steps
    assert recipe_from_config("vanilla_epochs", table, training).steps == 50  # equal passes over the real images
    table["half"] = [{"data": "mixed", "synthetic_share": 0.5, "passes_of": "bridged"}]
    assert recipe_from_config("half", table, training).steps == 100  # half of each batch is real: twice the steps
    table["quarters"] = [
        {"data": "synthetic", "steps_of": "bridged[0]", "length": 0.25},
        {"data": "real", "rest_of": "bridged"},
    ]
    assert [stage.steps for stage in recipe_from_config("quarters", table, training).stages] == [10, 80]


def test_a_config_may_name_every_recipe_and_copies_are_fresh():
    from bridgejax.config import default_config

    assert set(default_config().recipes) == {*default_recipes(), *CONTROLS, *CLASSIFIER_TUNING}
    control_recipes()["vanilla_mixup"][0]["mixup_alpha"] = 9.0
    assert control_recipes()["vanilla_mixup"][0]["mixup_alpha"] < 1


def test_the_table_imports_nothing_heavy():
    code = "import sys, bridgejax.recipes as t; t.default_recipes()"
    check = "; assert not {'jax', 'flax', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code + check], check=True)


def test_a_network_from_scratch_needs_statistics_of_its_own():
    with pytest.raises(UserError, match="batch_norm='train'"):
        recipe_from_config("mine", [{"reset": "all"}], {**TRAINING, "batch_norm": "frozen"})


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (
            [{"data": "real", "learning_rat": 0.1}],
            r"recipes.mine\[0\] has the unknown key 'learning_rat'; did you mean 'learning_rate'",
        ),
        ([{"data": "reel"}], "did you mean 'real'"),
        ([{"steps": 0}], r"recipes.mine\[0\].steps is 0"),
        ([{"steps": 1.5}], "whole number"),
        ([{"length": -1}], "above 0"),
        ([{"steps_of": "mine"}], "in a circle"),
        ([{"steps_of": "bridgd"}], "did you mean 'bridged'"),
        ([{"steps_of": "bridged", "steps": 3}], "keep one"),
        ([{"mixup_alpha": "big"}], "number of at least 0"),
        ([{"synthetic_share": 0.5}], "set data='mixed'"),
        ([{"restart_optimizer": False}], "no stage comes before"),
        ([{}, {"restart_optimizer": False, "optimizer": "sgd"}], "another optimizer"),
        ([{"trainable": ()}], "regular expressions"),
        ([{"trainable": 5}], "a list of texts"),
        ([{"rest_of": "bridged", "length": 2}], "keep one"),
        ([{"steps_of": "bridged[2]"}], "2 stages, counted from 0"),
        ([{"steps_of": 3}], "'NAME\\[0\\]'"),
        ([{"steps_of": "bridged"}, {"rest_of": "bridged"}], "the stages before take 60"),
        ([{"rest_of": "bridgd"}], "rest_of names 'bridgd', which is not a recipe in this config; did you mean 'bridged'"),
        ([{"passes_of": "synthetic_only"}], "sees none; use steps_of"),
        ([{"data": "synthetic", "passes_of": "bridged"}], "the stage itself sees none"),
        ([{"passes_of": "mixed"}], "give it a synthetic_share"),
        ([{"lr_scale": 0.1, "learning_rate": 0.1}], "keep one"),
        ([{"lr_scale": -1}], "lr_scale is -1"),
        ([{"rate_factor": 0.1}], "is now called 'lr_scale'"),
        ([{"early_stop_looks": 5}], "is now called 'early_stop_checks'"),
        ([{"reset": "block:2"}], "'blocks:N'"),
        ([{"reset": "blocks:0"}], "'blocks:N'"),
        ([{"reset": "haed"}], "did you mean 'head'"),
        ([{"early_stop": 0}], "early_stop is 0"),
        ([{"synthetic_loss": 0.5}], "set data='mixed'"),
        ([{"data": "mixed", "soft_images": "synthetic"}], "loss='soft_target', or leave it out"),
        ([{"batch_size": 0}], "batch_size is 0"),
        ([{"head": "cash"}], "did you mean 'cache'"),
        ([{"head": "cache"}, {"reset": "head"}], "after a stage with head='cache'; make that the last change"),
        ([{"head": "prompt"}, {"head": "cache"}], "after a stage with head='prompt'; make that the last change"),
        ([{"clip_norm": 0}], "clip_norm is 0"),
        ([{"passes_of": "bridged", "batch_size": 4}], "one batch size"),
        ([{"data": "mixed", "synthetic_loss": 1.5}], "of at least 0 and at most 1"),
        ({"data": "real"}, "is not a recipe"),
        ([3], "give a dict"),
    ],
)
def test_a_wrong_recipe_gets_one_sentence(stages, told):
    with pytest.raises(UserError, match=told):
        recipe_from_config("mine", stages, TRAINING)


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean 'bridged'"):
        recipe_from_config("briged", default_recipes(), TRAINING)


def test_low_resolution_is_stated_of_synthetic_images_for_all_stages_or_one():
    stages = [{"data": "synthetic"}, {"data": "mixed", "synthetic_side": 64}, {"data": "real"}]
    recipe = recipe_from_config("mine", stages, {**TRAINING, "synthetic_side": 32})
    assert [stage.synthetic_side for stage in recipe.stages] == [32, 64, None]
    assert "synthetic_side" not in recipe_from_config("mine", stages[:1], TRAINING).stages[0].to_dict()
    with pytest.raises(UserError, match=r"recipes\.mine\[0\]\.synthetic_side is set, but data is 'real'"):
        recipe_from_config("mine", [{"data": "real", "synthetic_side": 32}], TRAINING)
