"""Filter rules as texts, and stages that keep part of their synthetic images by them."""

from __future__ import annotations

import dataclasses

import pytest

from bridgejax.errors import UserError
from bridgejax.recipes import FilterRule, Stage, filter_rules, recipe_from_config


def test_a_rule_is_a_name_and_its_number():
    assert filter_rules("here", ("above_chance", "quota:800", "percentile:12.5", "real:-0.1")) == (
        FilterRule("above_chance"),
        FilterRule("quota", 800.0),
        FilterRule("percentile", 12.5),
        FilterRule("real", -0.1),
    )
    assert [rule.text for rule in filter_rules("here", ("real", "real_top:3", "top:5"))] == ["real:0", "real_top:3", "top:5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "here holds the rule 'best'; use"),
        ("above_chance:2", "'above_chance' takes no number"),
        ("quota", "give quota:NUMBER, a whole number of at least 1"),
        ("quota:2.5", "a whole number of at least 1"),
        ("top:inf", "a whole number of at least 1"),
        ("percentile:100", "a number from 0 to 99.999"),
        ("distinct:two", r"a number from 0.001 to 1 \(cosine\)"),
        ("real:nan", "a number from -2 to 2"),
    ],
)
def test_a_wrong_rule_is_named(text, message):
    with pytest.raises(UserError, match=message):
        filter_rules("here", (text,))


def test_stages_with_other_rules_have_other_images():
    stages = (
        {"data": "synthetic", "synthetic_filter": "quota:2"},
        {"data": "synthetic", "synthetic_filter": ("quota:2", "real"), "synthetic_set": "sketches"},
        {"data": "mixed", "synthetic_filter": ("quota:2",)},
        {"data": "synthetic"},
        {"data": "real"},
    )
    recipe = recipe_from_config("mine", stages)
    assert list(recipe.synthetic_stages) == ["/quota:2", "sketches/quota:2+real", ""]
    assert recipe.synthetic_sets == ("", "sketches")
    with pytest.raises(UserError, match=r"recipes.mine\[0\].synthetic_filter is set, but data is 'real'"):
        recipe_from_config("mine", [{"data": "real", "synthetic_filter": "real"}])
    with pytest.raises(UserError, match=r"recipes.mine\[0\].synthetic_filter holds the rule 'best'"):
        recipe_from_config("mine", [{"data": "synthetic", "synthetic_filter": "best"}])


def test_a_stage_without_a_filter_is_the_stage_that_it_was_before_there_were_any():
    assert "synthetic_filter" not in Stage(data="synthetic").to_dict()
    filtered = dataclasses.replace(Stage(data="synthetic"), synthetic_filter=("real",))
    assert filtered.to_dict()["synthetic_filter"] == ("real",)
