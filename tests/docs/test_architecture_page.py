"""docs/architecture.md names files, rooms and functions that are there, in the order that the imports keep to."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

from tests.architecture import rules

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CODE = sorted(set(re.findall(r"`([^`\n]+)`", re.sub(r"```.+?```", "", PAGE, flags=re.DOTALL))))
ROOMS = rules.LAYERS[1:-1]  # without `python -m bridgejax` and the ground
PLANNED = {room for rooms in ROOMS for room in rooms if not any((ROOT / rules.PACKAGE).glob(f"{room}*"))}
PATHS = [text for text in CODE if re.fullmatch(r"[\w./]+(/|\.(py|md|sh))", text) and text.rstrip("/") not in PLANNED]
NAMES = [text for text in CODE if re.fullmatch(r"bridgejax(\.\w+)+", text)]


@pytest.mark.parametrize("path", PATHS)
def test_the_file_is_there(path: str) -> None:
    assert (ROOT / path).exists() or (ROOT / rules.PACKAGE / path).exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_name_is_there(name: str) -> None:
    pkgutil.resolve_name(name)


def test_most_of_the_page_is_checked() -> None:
    assert len(PATHS) > 20
    assert len(NAMES) > 10


def test_the_rooms_stand_in_their_import_order() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \|", PAGE, re.MULTILINE)
    listed = [tuple(re.findall(r"`(\w+)`", row)) for row in rows]
    assert listed == [tuple(room for room in rooms if room not in PLANNED) for rooms in ROOMS]
    assert all(f"`{room}/`" in PAGE for room in PLANNED)
