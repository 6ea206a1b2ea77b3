"""docs/choosing.md is made from its rows, and what they say of our own results stands on the pages that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bridgejax.cli import main
from bridgejax.recipes import all_recipes
from bridgejax.report.choosing import DOMAINS, PRICES, RESULTS, SHOTS, advice, page

ROOT = Path(__file__).resolve().parents[2]
ROWS = [*(row.cells for row in SHOTS), *DOMAINS, *PRICES]


def test_the_page_is_what_the_command_makes():
    assert (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("row", [row for row in ROWS if row[-1].startswith(RESULTS)], ids=lambda row: f"{row[0]} {row[2]}")
def test_figures_of_ours_stand_on_their_page(row):
    text = (ROOT / row[-1]).read_text(encoding="utf-8").replace("**", "")
    gave = row[-2] if row[-2] != "1 s" else row[-3]
    figures = re.findall(r"[+−]\d+\.\d(?: \([^)]+\))?|\d+\.\d+", gave) or re.findall(r"\d+", gave)
    assert figures
    for figure in figures:
        assert figure in text, figure


def test_recipes_and_links_that_rows_name_are_there():
    named = {name for row in SHOTS for name in re.findall(r"`(\w+)`", row.recipe)}
    assert named <= all_recipes().keys()
    assert all(row[-1].startswith((RESULTS, "He et al. 2023", "Li et al. 2024")) for row in ROWS)


def test_a_study_is_shown_the_rows_of_its_shots():
    assert {row.shots for row in advice([1])} == {"1", "1 to 4", "1 to 16"}
    assert {row.shots for row in advice([None])} == {"17 or more"}
    assert {row.shots for row in advice([0, 8])} == {"0", "1 to 16", "4 to 8", "5 to 16"}
    assert all(advice([count]) for count in (*range(64), None))


def test_every_recipe_has_a_line_of_its_own(capsys):
    assert main(["config", "--recipes"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == list(all_recipes())
    assert lines["bridged_plus_plus"] == "synthetic with Mixup → new head → real"
    assert lines["bridged_low_rate"] == "synthetic → real (lr_scale=0.1)"
    assert lines["real_real"] == "real → real"
    alike = [name for name in lines if sum(lines[other] == lines[name] for other in lines) > 1]
    assert alike == []
