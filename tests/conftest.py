"""Shared by all tests: compiled programs are kept between runs, and no accelerator or network is touched."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_MAPPINGS = 20_000  # of the 65,530 that Linux lets a process have
_CACHE = Path(__file__).resolve().parent.parent / ".jax_cache"

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Subprocesses that tests start inherit these, so that each program compiles once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture(autouse=True, scope="module")
def released_programs() -> Iterator[None]:
    """Each compiled program takes memory mappings, and XLA crashes the process where Linux gives no more: they are let go."""
    yield
    maps = Path("/proc/self/maps")
    if maps.is_file() and maps.read_bytes().count(b"\n") > _MAPPINGS:
        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def restored_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands leave in their process, their place among others and a page to tell, does not reach the next test."""
    for name in ("BRIDGEJAX_COORDINATOR", "BRIDGEJAX_PROCESSES", "BRIDGEJAX_PROCESS_ID"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("bridgejax.progress._log", None)
    monkeypatch.setattr("bridgejax.progress.quiet", False)


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random generator of a few thousand weights: 16×16 pixels, 8×8 latents."""
    from benchmarks.reduced.generator import write_generator

    return write_generator(tmp_path_factory.mktemp("generator"))
