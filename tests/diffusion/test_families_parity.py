"""Every family of Stable Diffusion beside PyTorch diffusers: each network, then whole pipelines, on random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.parity
pytest.importorskip("torch")
pytest.importorskip("diffusers")

from bridgejax.diffusion import load_pipeline  # noqa: E402
from tests.diffusion.families import FAMILIES, measure, write_family  # noqa: E402


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.mark.parametrize("name", list(FAMILIES))
def test_family_agrees(name: str, root: Path) -> None:
    """Within 16 times PyTorch's own rounding of its double precision, and within the promise at most."""
    folder = write_family(name, root)
    pipe: Any = load_pipeline(folder)
    rows = list(measure(name, folder, pipe))
    report = "\n".join(f"{row.what}: {row.ours:.1e} allowed {row.allowed:.1e} (PyTorch {row.single:.1e})" for row in rows)
    print(report)
    assert len(rows) >= 6
    assert all(row.ours <= row.allowed for row in rows), report
