"""A config of a tiny generator and task, and what a synthetic set holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_study import write_study

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory, tiny_generator: Path) -> Path:
    """Two classes of six coloured pictures each, and a random generator."""
    return write_study(tmp_path_factory.mktemp("launch"), tiny_generator, seeds=1)
