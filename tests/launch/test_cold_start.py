"""What one process compiled, the next one finds: its first image comes in under a quarter of the first one's time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "cold_start.py"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["builtin:tiny_diffusion", pytest.param("reduced", marks=pytest.mark.parity)])
def test_a_second_start_is_four_times_as_quick(model: str) -> None:
    """Real processes, one after the other, with a cache folder of their own; "reduced" has Stable Diffusion's depth.

    Processor time is what they are judged by: tests do not have the machine for themselves.
    """
    if model == "reduced":  # PyTorch writes its weights
        pytest.importorskip("torch")
        pytest.importorskip("diffusers")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--model", model, "--processor-time"], capture_output=True, text=True, check=False
    )
    assert "warm start:" in done.stdout, done.stderr[-3000:]
    assert done.returncode == 0, done.stdout
