"""What docs/pipelines.md shows works as it stands there, on random weights of reduced size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.reduced.families import FAMILIES, write_family_by_numpy
from tests.diffusion.test_vae_options import write_tiny_vae

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "pipelines.md").read_text(encoding="utf-8")
FOLDERS = {
    "stable-diffusion-v1-5": "sd1",
    "stable-diffusion-2-1": "sd2",
    "stable-diffusion-xl-base-1.0": "sdxl",
    "sd-turbo": "sd_turbo",
    "sdxl-turbo": "sdxl_turbo",
    "LCM_Dreamshaper_v7": "lcm",
    "lcm-sdxl": "lcm_sdxl",
}
BLOCKS = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)


def test_every_family_has_an_example() -> None:
    shown = " ".join(BLOCKS)
    assert all(f'load_pipeline("{name}"' in shown for name in FOLDERS)
    assert set(FOLDERS.values()) == set(FAMILIES) - {"sd2_base"}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.findall(r'load_pipeline\("([^"]+)"(.*)\)', block)[0][0])
@pytest.mark.filterwarnings("error::UserWarning")
def test_the_examples_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = re.findall(r'load_pipeline\("([^"]+)"', block)[0]
    write_family_by_numpy(FOLDERS[name], tmp_path / name)
    write_tiny_vae(tmp_path / "taesd")
    scope: dict[str, Any] = {}
    exec(compile("from bridgejax.diffusion import load_pipeline\n" + block, "pipelines.md", "exec"), scope)
    images = [np.asarray(value) for value in scope.values() if getattr(value, "ndim", 0) == 4]
    assert images
    for image in images:
        assert image.shape[1:] == (16, 16, 3)
        assert np.isfinite(image).all()
        assert image.std() > 0.01


def test_the_measured_tables_are_there() -> None:
    """Every family has a row of figures, each within its promise."""
    families = re.search(r"<!-- begin: families -->(.+?)<!-- end: families -->", PAGE, re.DOTALL)
    assert families
    for family in FAMILIES.values():
        row = next(line for line in families.group(1).splitlines() if line.startswith(f"| {family.title} |"))
        figures = [float(cell) for cell in re.findall(r"\| (\S+) \(", row)]
        assert len(figures) == 5
        assert max(figures[:4]) <= 1e-4
        assert figures[4] <= 2e-3
