"""Prompts: what a class name becomes, and what is refused."""

from __future__ import annotations

import pytest

from bridgejax.errors import UserError
from bridgejax.prompts import check_class_names, check_templates, format_prompt, prompt_for


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("road_sign", "a photo of a road sign."),
        ("<b>é/ü & {x} %s", "a photo of a <b>é/ü & {x} %s."),
        ("日本 犬", "a photo of a 日本 犬."),
    ],
)
def test_any_class_name_enters_the_template_as_it_is_but_for_underscores(name, prompt):
    assert check_class_names([name]) == (name,)
    assert format_prompt("a photo of a {}.", name) == prompt


def test_templates_and_phrases_come_up_in_rotation_by_index():
    templates = check_templates(("a {}", "the {}"))
    assert [prompt_for("cat", i, templates) for i in range(3)] == ["a cat", "the cat", "a cat"]
    variants = {"bird": ("robin", "owl"), "other": ("x",)}
    shown = [prompt_for("bird", i, templates, variants) for i in range(4)]
    assert shown == ["a robin", "a owl", "the robin", "the owl"]
    assert prompt_for("cat", 0, templates, variants) == "a cat"


@pytest.mark.parametrize("template", ["a photo", "{x}", "", (), ("a {}", "b"), (3,)])
def test_a_template_without_a_place_for_the_class_is_refused(template):
    with pytest.raises(UserError, match=r"template.*\{\}"):
        check_templates(template)


@pytest.mark.parametrize("names", [[], "cat", ["a", "a"], ["a", ""], [" a"], ["a\nb"], [1]])
def test_class_names_that_cannot_be_are_refused(names):
    with pytest.raises(UserError, match="class"):
        check_class_names(names)


def test_phrases_must_be_a_list_of_texts():
    with pytest.raises(UserError, match="variants"):
        prompt_for("bird", 0, ("{}",), {"bird": "robin"})
