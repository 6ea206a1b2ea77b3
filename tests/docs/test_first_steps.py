"""docs/first_steps.ipynb runs as it stands, and what it shows came from a run."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "first_steps.ipynb"


def _code() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def _run(cells: list[dict]) -> list[object]:
    """Runs code cells in one namespace, as a kernel does, and returns the value of each one's last expression."""
    space: dict[str, object] = {}
    values: list[object] = []
    for cell in cells:
        body = ast.parse("".join(cell["source"]))
        last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
        exec(compile(body, str(NOTEBOOK), "exec"), space)
        values.append(None if last is None else eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), space))
    return values


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    from bridgejax.improvement import budget, one_call

    smallest = dataclasses.replace(budget.DESIGNS[-1], per_class=4)
    monkeypatch.setattr(budget, "DESIGNS", (smallest,))
    monkeypatch.setattr(one_call, "_measured", lambda *_: budget.Rates(0.001, 0.001, 0.001, 0.001))
    monkeypatch.chdir(tmp_path)
    counts, _, _, (validation, accuracy, _), answers = _run(_code())
    assert counts == _shown_counts()
    assert set(validation) == set(smallest.arms)
    assert 0 <= accuracy <= 1
    assert set(answers.values()) <= {folder.removeprefix("test/") for folder in counts}
    assert "mean per-class accuracy on the test images" in capsys.readouterr().out


def _shown_counts() -> dict[str, int]:
    """The counts that the committed first cell shows: of the same photographs on every machine."""
    (output,) = _code()[0]["outputs"]
    counts: dict[str, int] = ast.literal_eval("".join(output["data"]["text/plain"]))
    return counts


@pytest.mark.parametrize("number", range(len(_code())))
def test_what_it_shows_came_from_a_run(number):
    cell = _code()[number]
    assert cell["execution_count"] == number + 1
    assert all(output["output_type"] != "error" for output in cell["outputs"])
    assert cell["outputs"] or number == 1


def test_it_shows_the_finding_and_the_pictures():
    shown = "".join("".join(output["data"].get("text/html", "")) for output in _code()[2]["outputs"])
    assert "mean per-class accuracy on the test images" in shown
    assert shown.count("data:image/jpeg") == 12  # six classes, real and generated
    assert NOTEBOOK.stat().st_size < 300_000
