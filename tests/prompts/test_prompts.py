"""Prompts: what a class name becomes, and what is refused."""

from __future__ import annotations

import pytest

from bridgejax.errors import UserError
from bridgejax.prompts import TEMPLATE_LISTS, check_class_names, check_templates, format_prompt, prompt_for, template_list


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


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a photo", r"^prompts\.template 'a photo' has no \{\}; put \{\} where"),
        ("{x}", r"^prompts\.template '\{x\}' has no \{\}; put"),
        ("", r"^prompts\.template '' has no \{\}; put"),
        ((), r"^prompts\.template is empty; give a text with \{\} where"),
        (("a {}", "b"), r"^prompts\.template 'b' has no \{\}; put"),
        ((3,), r"^prompts\.template 3 is not text; give a text with \{\} where"),
    ],
)
def test_a_template_without_a_place_for_the_class_is_refused(template, words):
    with pytest.raises(UserError, match=words):
        check_templates(template)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "^class_names is empty; name at least one"),
        ("cat", r"^class_names is 'cat'; give a list of names such as \['cat', 'dog'\]"),
        (["a", "a"], "^class name 'a' is given more than once"),
        (["a", ""], "^class name '' is empty or has spaces around it"),
        ([" a"], "^class name ' a' is empty or has spaces around it"),
        (["a\nb"], r"^class name 'a\\nb' holds a control character or a line break"),
        ([1], "^class name 1 is not text; write it in quotes"),
    ],
)
def test_class_names_that_cannot_be_are_refused(names, words):
    with pytest.raises(UserError, match=words):
        check_class_names(names)


@pytest.mark.parametrize(
    ("phrases", "words"),
    [
        ("robin", r"^prompts\.variants of class 'bird' is 'robin'; give a tuple of phrases"),
        (("robin", " "), r"^prompts\.variants of class 'bird' holds ' '; give non-empty phrases"),
    ],
)
def test_phrases_must_be_a_list_of_texts(phrases, words):
    with pytest.raises(UserError, match=words):
        prompt_for("bird", 0, ("{}",), {"bird": phrases})


def test_the_papers_template_lists_are_whole_and_fit_every_class_name():
    counts = {"simple": 1, "sun": 2, "cars": 8, "imagenet": 7, "cifar10": 18, "cifar100": 18, "openai_imagenet": 80, "fmow": 16}
    for name, count in counts.items():
        assert len(template_list(name)) == count, name
    for name, templates in TEMPLATE_LISTS.items():
        assert check_templates(templates) == templates
        assert len(set(templates)) == len(templates), name
        assert all(text.count("{}") == 1 and "  " not in text and not text.startswith(" ") for text in templates), name
    assert {"a photo of many {}.", "the embroidered {}.", "a {} in a video game.", "itap of the {}."} <= set(
        TEMPLATE_LISTS["openai_imagenet"]
    )
    assert format_prompt(*template_list("eurosat"), "Annual Crop Land") == "a centered satellite photo of Annual Crop Land."
    with pytest.raises(UserError, match=r"no template list 'eurosta'; did you mean 'eurosat'"):
        template_list("eurosta")
