"""What one process compiled, the next one finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "cold_start.py"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["builtin:tiny_diffusion", pytest.param("reduced", marks=pytest.mark.parity)])
def test_a_second_start_fetches_its_program_in_a_quarter_of_the_time_to_compile(model: str) -> None:
    """Real processes, one after the other, with a cache folder of their own; "reduced" has Stable Diffusion's depth."""
    if model == "reduced":  # PyTorch writes its weights
        pytest.importorskip("torch")
        pytest.importorskip("diffusers")
    done = subprocess.run([sys.executable, str(PROGRAM), "--model", model], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
