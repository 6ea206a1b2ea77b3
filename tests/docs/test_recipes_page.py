"""docs/recipes.md names every recipe, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path

from bridgejax.config import check_config, default_config
from bridgejax.recipes import LENGTH_KEYS, all_recipes, recipe_from_config
from bridgejax.recipes.parsing import STAGE_KEYS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)


def _named() -> set[str]:
    """The names in the first cells of the tables, ranges and endings written out."""
    found: set[str] = set()
    for cell in re.findall(r"^\| (`[^|]+) \|", PAGE, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", cell):
            if name.startswith("…"):
                name = "bridged_reset" + name[1:]
            found.add(name)
        if "…" in cell and "` … `" in cell:
            stem = re.findall(r"`(\w+?)\d+`", cell)[0]
            found |= {f"{stem}{share}" for share in (10, 25, 50, 90)}
    return found


def test_the_page_names_every_recipe_and_no_other():
    assert _named() - {*STAGE_KEYS, *LENGTH_KEYS} == set(all_recipes())


def test_the_examples_of_recipes_are_recipes():
    config = default_config()
    for block in (block for block in BLOCKS if "config.recipes" in block):
        exec(compile(block, "recipes.md", "exec"), {"config": config})
        check_config(config)
    recipes = {name: recipe_from_config(name, config.to_dict()["recipes"]) for name in ("gentle", "pretrained")}
    assert [stage.reset for stage in recipes["gentle"].stages] == ["none", "blocks:2"]
    assert [stage.synthetic_set for stage in recipes["pretrained"].stages] == ["others", ""]


def test_the_example_of_a_step_runs(capsys):
    (block,) = [block for block in BLOCKS if "make_train_step" in block]
    assert len([line for line in block.splitlines() if line.strip()]) <= 11
    exec(compile(block, "recipes.md", "exec"), {})
    assert re.fullmatch(
        r"loss \d+\.\d{3} at rate 0\.00999\d*|loss \d+\.\d{3} at rate 0\.01\d*", capsys.readouterr().out.strip()
    )
