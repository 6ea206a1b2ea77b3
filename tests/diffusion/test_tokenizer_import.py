"""Prompts need no PyTorch, and nothing says that it is missing; what transformers has to say otherwise is heard."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
sys.modules["torch"] = None  # as where PyTorch is not installed
import importlib.metadata, importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
from bridgejax.models.tokenizer import Tokenizer
print(Tokenizer(sys.argv[1], 77)(["a bird"]).shape)
import transformers
assert not transformers.utils.is_torch_available()
transformers.logging.get_logger("transformers.x").warning("something real")
transformers.logging.get_logger("transformers.x").warning_advice("some advice")
"""


def test_no_word_of_pytorch(tiny_folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRANSFORMERS_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_folder / "tokenizer")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 77)"
    assert "PyTorch" not in done.stderr
    assert "something real" in done.stderr
    assert "some advice" in done.stderr
