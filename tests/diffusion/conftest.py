"""The tiny generator, loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reduced.generator import write_tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tiny_generator: Path) -> Path:
    """The folder of a tiny generator: 16×16 pixels, 8×8 latents."""
    return tiny_generator


@pytest.fixture(scope="session")
def pipe(tiny_folder: Path):
    """The loaded generator."""
    from bridgejax.diffusion import load_pipeline

    return load_pipeline(tiny_folder)


@pytest.fixture(scope="session")
def make_tokenizer():
    """The function that writes a tokenizer folder."""
    return write_tokenizer
