"""What README shows works as it stands there, with fewer images, steps and seeds."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
from PIL import Image

from bridgejax.cli import COMMANDS, main
from bridgejax.synthesis import generate_set
from tests.small_backbones import write_backbone
from tests.small_boxed_set import write_boxed_set

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.+?)```", README, re.DOTALL)
PAGES = (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
# What no test can run: it changes the environment that the tests run in, or takes minutes.
NOT_RUN = ("python3 -m venv .venv", ".venv/bin/pip install", ".venv/bin/pytest")
WITHOUT_CONFIG = ("config", "detect", "doctor", "export", "import-weights", "merge", "report")
SMALL = (
    *("synthetic.per_class=2", "generator.steps=2", "classifier.image_size=32"),
    *("training.steps=2", "training.evaluations=1", "arms=vanilla,bridged", "study.seeds=1", "study.baseline=vanilla"),
)
SMALL_OF = {
    "filter": ("filter.rule=distinct,",),
    "invert": ("prompts.source=template", "study.shots=4,", "inversion.steps=2", "inversion.evaluations=1"),
    "tune": (
        *("study.shots=4,", "task.validation_per_class=1"),  # one photograph of a class leaves none for validation
        *("tuning.learning_rates=0.01,", "tuning.lengths=1,", "tuning.seeds=1"),
    ),
}


def _commands() -> list[str]:
    """The commands of README: those of its shell blocks, and those of its table."""
    lines = [line.strip() for block in BLOCKS for line in re.split(r"&&|(?<!\\)\n", block.replace("\\\n", " "))]
    return [line for line in lines if line] + re.findall(r"^\| `(bridgejax [^`]+)` \|", README, re.MULTILINE)


RUN = [command for command in _commands() if not command.startswith(NOT_RUN)]


@pytest.fixture(scope="module")
def own_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of plain images, with parts for training and testing."""
    root = tmp_path_factory.mktemp("own")
    for channel, name in enumerate(("red", "green")):
        for part, count in (("train", 4), ("test", 2)):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.zeros((32, 32, 3), np.uint8)
                pixels[..., channel] = 150 + 20 * number
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two synthetic sets of a black image each, of other classes."""

    def black(prompts, **_):
        return np.zeros((len(prompts), 8, 8, 3), np.float32)

    root = tmp_path_factory.mktemp("sets")
    for name in ("a", "b"):
        generate_set(root / name, pipeline=black, class_names=[name], per_class=1, height=8, width=8)
    return [root / "a", root / "b"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, own_classes: Path, sets: list[Path]) -> Callable[[str], Path]:
    """Runs a command of README, placeholders filled in, on small settings; returns its workdir or output folder."""
    boxed = write_boxed_set(tmp_path_factory.mktemp("boxed") / "set")
    small_of = {"detect": ["--side", "64", "--weights", str(write_backbone("timm resnet", tmp_path_factory.mktemp("small")))]}
    finished: list[Path] = []

    def start(command: str) -> Path:
        folder = tmp_path_factory.mktemp("readme") / "made"
        if command.split()[1] == "report":
            shutil.copytree(finished[0], folder)
        filled = {
            "FOLDER_OR_HUB_NAME": "builtin:tiny_diffusion",
            "SOURCE": "builtin:tiny_diffusion",
            "FOLDER": folder,
            "PATH": own_classes,
            "BOXED_SET": boxed,
            "N": "2",
            "SET": sets[0],
            "OTHER_SET": sets[1],
            "DIR": folder,
            "NAME": "vanilla",
            "K": "0",
        }
        for placeholder, value in filled.items():
            command = re.sub(rf"\b{placeholder}\b", str(value), command)
        _, name, *options = shlex.split(command)
        options += small_of.get(name, [])
        if name not in WITHOUT_CONFIG:
            if "--config" not in options:
                options += ["--config", "configs/quickstart.py"]
            position = options.index("--workdir") if "--workdir" in options else len(options)
            options[position : position + 2] = ["--workdir", str(folder)]
            options += [f"--config.{setting}" for setting in (*SMALL, *SMALL_OF.get(name, ()))]
        assert main([name, *options]) == 0
        if name == "run":
            finished.append(folder)
        return folder

    return start


def test_the_python_examples_run(tmp_path, monkeypatch):
    from bridgejax import improvement

    # It works as long as it is allowed to; docs/first_steps.ipynb runs the call.
    monkeypatch.setattr(improvement, "improve", create_autospec(improvement.improve))
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    blocks = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert (tmp_path / "birds" / "dataset_info.json").is_file()


@pytest.mark.parametrize("command", RUN)
def test_the_commands_run(command, run, monkeypatch):
    monkeypatch.chdir(ROOT)
    made = run(command)
    left = {
        "run": "report.html",
        "study": "results.jsonl",
        "generate": "synthetic/dataset_info.json",
        "export": "train-00000.tar",
        "merge": "dataset_info.json",
        "filter": "filter.html",
        "invert": "inversion",
        "tune": "tuning.json",
        "train": "runs/vanilla",
        "work": "synthetic/sidecars/00000.json",
        "detect": "detection.json",
        "report": "report.html",
        "import-weights": "SHA256SUMS",
    }
    name = command.split()[1]
    assert name not in left or (made / left[name]).exists()


def test_every_shell_block_is_shell():
    for block in BLOCKS:
        assert subprocess.run(["bash", "-n", "-c", block], check=False).returncode == 0, block


def test_every_command_of_the_program_is_shown_and_run():
    assert {command.split()[1] for command in RUN} == set(COMMANDS)


def test_every_relative_link_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_key_that_readme_and_docs_set_is_a_key():
    from bridgejax.config import default_config, flatten

    known = {name for name, _ in flatten(default_config())}
    for page in PAGES:
        for key in re.findall(r"--config\.([a-z_.]+)=", page.read_text(encoding="utf-8")):
            assert key in known, f"{page.name}: --config.{key}"


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.py")), ids=lambda file: file.stem)
def test_every_config_loads(file):
    from bridgejax.config import load_config

    assert load_config(str(file)).arms
