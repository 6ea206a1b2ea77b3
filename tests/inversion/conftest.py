"""The tiny generator, loaded."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_folder(tiny_generator: Path) -> Path:
    """The folder of a tiny generator: 16×16 pixels, 8×8 latents."""
    return tiny_generator


@pytest.fixture(scope="session")
def pipe(tiny_folder: Path):
    """The loaded generator."""
    from bridgejax.diffusion import load_pipeline

    return load_pipeline(tiny_folder)
