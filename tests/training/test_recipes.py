"""Recipes as data: lengths, defaults, and what a wrong one says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bridgejax.errors import UserError
from bridgejax.training import default_recipes, recipe_from_config

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


def test_the_table_imports_nothing_heavy():
    code = "import sys, bridgejax.training.recipes, bridgejax.recipes as t; t.default_recipes()"
    check = "; assert not {'jax', 'flax', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code + check], check=True)


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ([], "has no stage"),
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
        ({"data": "real"}, "unknown"),
        ([3], "give a dict"),
    ],
)
def test_a_wrong_recipe_gets_one_sentence(stages, told):
    with pytest.raises(UserError, match=told):
        recipe_from_config("mine", stages, TRAINING)


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean 'bridged'"):
        recipe_from_config("briged", default_recipes(), TRAINING)
