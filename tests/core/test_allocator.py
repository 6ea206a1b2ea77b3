"""Freed memory stays with a process that computes on a CPU, and does not where it should not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import bridgejax.models
import jax, jax.numpy as jnp

@jax.jit
def step(x):
    y = jnp.dot(x, x)
    return jnp.dot(jnp.sin(y), x).sum()

x = jnp.ones((3000, 3000))
for _ in range(10):
    step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(**environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_a_repeated_program_asks_the_kernel_for_no_new_pages() -> None:
    piece = 3000 * 3000 * 4 // os.sysconf("SC_PAGE_SIZE")  # the pages of one product; each of five calls takes at least one
    # A call may begin before the memory of the last one is back, and so need a second piece: once, whatever the calls.
    assert _faults() < 1.5 * piece
    assert _faults(BRIDGEJAX_ALLOCATOR="default") > 2.5 * piece
