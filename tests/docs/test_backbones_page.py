"""What docs/backbones.md shows works as it stands there, on random weights of reduced size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.small_backbones import write_backbone, write_clip, write_dinov2

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_backbone("timm vit", tmp_path / "vit_small_patch16_224")
    write_backbone("transformers resnet", tmp_path / "resnet-18")
    write_clip(tmp_path / "clip-vit-base-patch32")
    write_dinov2(tmp_path / "dinov2-small")
    scope: dict[str, Any] = {"pixels": np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)}
    widths = []
    for block in BLOCKS:
        exec(compile(block, "backbones.md", "exec"), scope)
        widths.append(scope["logits"].shape)
        assert np.isfinite(scope["logits"]).all()
    assert widths == [(2, 12), (2, 12), (2, 2), (2, 12), (2, 12), (2, 12)]
    assert (tmp_path / "fine-tuned" / "model.safetensors").is_file()
    assert scope["larger"].preprocessing.size == 96


def test_the_measured_table_is_within_its_promise() -> None:
    table = re.search(r"<!-- begin: parity -->(.+?)<!-- end: parity -->", PAGE, re.DOTALL)
    assert table
    rows = [line.split(" | ") for line in table[1].strip().splitlines()[2:]]
    assert {row[0].strip("| ").split()[0] for row in rows} == {"timm", "transformers", "OpenCLIP", "OpenAI"}
    assert len(rows) >= 12
    for row in rows:
        ours, original = (float(cell.strip(" |")) for cell in row[-2:])
        assert ours <= 4 * original + 1e-4
