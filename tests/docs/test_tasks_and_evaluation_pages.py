"""What docs/tasks.md, docs/evaluation.md and docs/filter.md show works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bridgejax.evaluation
from bridgejax.data.catalog import TASKS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("tasks", "evaluation", "filter")}
BLOCKS = [(name, block) for name, text in PAGES.items() for block in re.findall(r"```python\n(.+?)```", text, re.DOTALL)]


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BLOCKS)])
def test_the_examples_run(name, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, f"{name}.md", "exec"), {})


def test_the_table_is_the_catalogue():
    rows = re.search(r"<!-- begin: catalogue -->\n(.+?)<!-- end", PAGES["tasks"], re.DOTALL)
    assert rows
    lines = rows.group(1).splitlines()[2:]
    assert len(lines) == len(TASKS)
    for line, task in zip(lines, TASKS.values(), strict=True):
        wanted = (
            task.name,
            task.title,
            f"{task.classes:,}",
            f"{task.images[0]:,}, {task.images[1]:,}",
            task.template,
            task.metric,
        )
        assert all(part in line for part in wanted), task.name
        assert task.tfds is None or f"`{task.tfds}` {task.version}.x" in line
        assert task.tfds is None or f"{f'`{task.train}`' if task.train else 'none'}, `{task.test}`" in line


def test_every_function_that_is_told_of_is_there():
    told = re.findall(r"`([a-z_]+)\(", PAGES["evaluation"].partition("```python")[0])
    assert len(told) > 10
    assert set(told) <= set(bridgejax.evaluation.__all__)
