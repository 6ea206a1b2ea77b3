"""A SLURM of its own for these tests, and the config and comparison of the tests of executors."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.executors.conftest import assert_same_work, config_file, local

__all__ = ["assert_same_work", "config_file", "local"]
ROOT = Path(__file__).resolve().parents[2]
PATH = f"{os.environ['PATH']}:/usr/sbin"


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    """The environment in which sbatch, srun and scancel reach a SLURM of one node with two task slots."""
    if os.geteuid() or not all(shutil.which(name, path=PATH) for name in ("munged", "slurmctld", "slurmd", "sbatch")):
        pytest.skip("needs root and Debian's slurm-wlm and munge")
    process = subprocess.Popen(
        [ROOT / "tests" / "slurm" / "cluster.sh", "bash", "-c", 'echo "$SLURM_CONF"; cat'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    conf = process.stdout.readline().strip()
    assert conf, "SLURM did not start"
    yield {**os.environ, "SLURM_CONF": conf, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    process.communicate()


@pytest.fixture(scope="session")
def shell(cluster: dict[str, str]) -> Callable[..., str]:
    """Runs a command beside the SLURM and returns its output; $SLURM_TRANSCRIPT names a file that keeps a copy of both."""
    began = time.monotonic()

    def call(*words: object) -> str:
        done = subprocess.run(list(map(str, words)), env=cluster, capture_output=True, text=True, check=False)
        if name := os.environ.get("SLURM_TRANSCRIPT"):
            with open(name, "a") as file:
                file.write(f"[{time.monotonic() - began:6.1f} s] $ {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
        assert done.returncode == 0 or words[0] == "scancel", done.stderr  # its answer is late on a busy machine
        return done.stdout

    return call
