"""What README shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(name: str) -> str:
    found = re.search(rf"<!-- command: {name} -->\n```bash\n(.+?)```", README, re.DOTALL)
    assert found, f"README.md holds no command {name}"
    return found.group(1).strip()


def test_the_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    blocks = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert (tmp_path / "birds" / "dataset_info.json").is_file()


@pytest.mark.parametrize("name", ["quickstart", "test", "parity"])
def test_the_commands_are_shell(name):
    assert subprocess.run(["bash", "-n", "-c", _block(name)], check=False).returncode == 0


def test_every_relative_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_key_that_readme_and_docs_set_is_a_key():
    from bridgejax.config import default_config, flatten

    known = {name for name, _ in flatten(default_config())}
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for key in re.findall(r"--config\.([a-z_.]+)=", page.read_text(encoding="utf-8")):
            assert key in known, f"{page.name}: --config.{key}"


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.py")), ids=lambda file: file.stem)
def test_every_config_loads(file):
    from bridgejax.config import load_config

    assert load_config(str(file)).arms
