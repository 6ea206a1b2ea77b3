"""The package keeps to its architecture, and the checks find what breaks it."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from tests.architecture import rules

ROOT = Path(__file__).resolve().parents[2]
CHECKS = {
    "no room imports from a room above it": rules.upward_imports,
    "no modules import each other in a circle": rules.circles,
    "TensorFlow is imported in data alone": rules.tensorflow_imports,
    "files are short": rules.long_files,
    "types are known": rules.too_many_any,
    "one name has one meaning": rules.repeated_names,
}
# (file that is changed, what is added to it, the check that must fail, what its message names)
BREACHES = {
    "upward": (
        "data/splits.py",
        "from bridgejax.training.state import TrainState",
        "no room imports from a room above it",
        ("bridgejax/data/splits.py:{line}", "data imports training"),
    ),
    "upward in a function": (
        "identity.py",
        "def late():\n    import bridgejax.data.streams",
        "no room imports from a room above it",
        ("bridgejax/identity.py:{line}", "identity imports data"),
    ),
    "upward for types": (
        "prompts/classes.py",
        "if TYPE_CHECKING:\n    from bridgejax.evaluation.leep import leep",
        "no room imports from a room above it",
        ("bridgejax/prompts/classes.py:{line}", "prompts imports evaluation"),
    ),
    "sideways": (
        "data/splits.py",
        "from bridgejax import evaluation",
        "no room imports from a room above it",
        ("bridgejax/data/splits.py:{line}", "data imports evaluation"),
    ),
    "relative": (
        "prompts/classes.py",
        "from ..evaluation import leep",
        "no room imports from a room above it",
        ("bridgejax/prompts/classes.py:{line}", "prompts imports evaluation"),
    ),
    "a room without a place": (
        "data/splits.py",
        "import bridgejax.misc",
        "no room imports from a room above it",
        ("bridgejax/data/splits.py:{line}", "misc has no place"),
    ),
    "circle": (
        "data/examples.py",
        "def late():\n    from bridgejax.data.tasks import load_task",
        "no modules import each other in a circle",
        ("bridgejax.data.examples (examples.py:{line})", "bridgejax.data.tasks (tasks.py:"),
    ),
    "tensorflow": (
        "evaluation/leep.py",
        "def late():\n    import tensorflow as tf",
        "TensorFlow is imported in data alone",
        ("bridgejax/evaluation/leep.py:{line}", "evaluation imports tensorflow"),
    ),
    "length": ("data/splits.py", "\n" * 500, "files are short", ("bridgejax/data/splits.py: ", "at most 500")),
    "any": ("data/splits.py", "x: Any\n" * 101, "types are known", ("at most 100",)),
    "class": (
        "data/splits.py",
        "class Examples: ...",
        "one name has one meaning",
        ("class Examples", "bridgejax/data/splits.py:{line}", "bridgejax/data/examples.py:"),
    ),
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_keeps_to_its_architecture(check: str) -> None:
    assert CHECKS[check](ROOT) == []


def test_benchmarks_import_nothing_of_the_tests() -> None:
    for file in (ROOT / "benchmarks").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "tests"], file


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package's source."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(
        ROOT / rules.PACKAGE, root / rules.PACKAGE, ignore=shutil.ignore_patterns("assets", "tables", "__pycache__")
    )
    return root


@pytest.mark.parametrize(("file", "added", "check", "named"), BREACHES.values(), ids=BREACHES)
def test_a_breach_is_found_and_named(copy: Path, file: str, added: str, check: str, named: tuple[str, ...]) -> None:
    changed, before = copy / rules.PACKAGE / file, CHECKS[check](copy)
    text = changed.read_text(encoding="utf-8")
    line = len(text.splitlines()) + len(added.splitlines())
    try:
        changed.write_text(f"{text}{added}\n", encoding="utf-8")
        (fault, *_) = [found for found in CHECKS[check](copy) if found not in before]
    finally:
        changed.write_text(text, encoding="utf-8")
    assert all(part.format(line=line) in fault for part in named), fault
