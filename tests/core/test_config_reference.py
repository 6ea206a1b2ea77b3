"""The reference of configs: the page is up to date, the JSON Schema is one and tells right from wrong."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from bridgejax.cli import main
from bridgejax.config import default_config, to_plain
from bridgejax.config.reference import COMMAND, as_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


@pytest.fixture(scope="module")
def validator():
    from bridgejax.config.reference import as_json_schema

    schema = json.loads(as_json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == as_page() + "\n", f"run `{COMMAND}`"


def test_the_defaults_are_valid(validator):
    assert list(validator.iter_errors(to_plain(default_config()))) == []


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("generator", "steps", 0),
        ("generator", "scheduler", "eulr"),
        ("generator", "stepz", 3),
        ("task", "class_names", "cat"),
        ("recipes", "mine", [{"data": "reel"}]),
        ("recipes", "mine", [{"learning_rat": 0.1}]),
        ("synthetic_sets", "other", {"training": {"batch_size": 4}}),
        ("synthetic_sets", "other", {"generator": {"steps": "many"}}),
    ],
)
def test_what_is_wrong_in_a_config_is_wrong_by_the_schema(validator, group, key, value):
    config = to_plain(default_config())
    config[group][key] = value
    assert list(validator.iter_errors(config))


def test_the_command_prints_every_key_with_its_default_and_help(capsys):
    assert main(["config"]) == 0
    text = capsys.readouterr().out
    assert "generator.guidance_scale = 7.5\n    Scale of classifier-free guidance" in text
    assert main(["config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["seed"]["default"] == 0
