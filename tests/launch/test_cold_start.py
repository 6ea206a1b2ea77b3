"""What one process compiled, the next one finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "limit"),
    [
        # Of so small a model imports, which no cache saves, are a sixth of the first start.
        ("builtin:tiny_diffusion", "0.33"),
        pytest.param("reduced", "0.25", marks=pytest.mark.parity),
    ],
)
def test_a_second_start_takes_a_fraction_of_the_first(model: str, limit: str) -> None:
    """Real processes, one after the other, with a cache folder of their own; "reduced" has Stable Diffusion's depth."""
    if model == "reduced":  # PyTorch writes its weights
        pytest.importorskip("torch")
        pytest.importorskip("diffusers")
    command = [sys.executable, "-m", "benchmarks", "cold_start", "--model", model, "--limit", limit]
    own = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # compiled as for a user
    done = subprocess.run(command, env=own, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
