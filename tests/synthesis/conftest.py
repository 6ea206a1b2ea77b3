"""A stand-in for a pipeline, shared with the subprocesses that the tests kill."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def load_file(path: Path) -> ModuleType:
    """Imports a file of the tests as a module."""
    spec = importlib.util.spec_from_file_location(path.stem + "_loaded", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake_file() -> Path:
    return Path(__file__).parent / "fake_pipeline.py"


@pytest.fixture
def fake(fake_file):
    return load_file(fake_file).FakePipeline()


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_generator: Path):
    """A real pipeline of random weights, 16×16 pixels."""
    from bridgejax.diffusion import load_pipeline

    return load_pipeline(tiny_generator)
