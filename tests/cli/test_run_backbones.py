"""`bridgejax run` with published-layout backbones on the embedded photographs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridgejax.cli import main
from tests.small_backbones import write_backbone

CONFIG = """
from bridgejax.config import default_config

def get_config(arg=None):
    config = default_config()
    config.task.shots = 1
    config.generator.weights = "{generator}"
    config.generator.steps = 1
    config.generator.guidance_scale = 1.0
    config.generator.batch_size = 6
    config.synthetic.per_class = 4
    config.classifier.weights = "{classifier}"
    config.classifier.image_size = 32
    config.training.batch_size = 12
    config.training.base_steps = 2
    config.training.evaluations = 1
    config.arms = ("vanilla", "bridged_plus_plus")
    config.study.baseline = "vanilla"
    config.study.seeds = 1
    return config
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["timm resnet", "transformers vit"])
def test_a_study_runs_on_a_published_backbone(kind: str, tiny_generator: Path, tmp_path: Path) -> None:
    classifier = write_backbone(kind, tmp_path / "classifier")
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(generator=tiny_generator, classifier=classifier))
    assert main(["run", "--config", str(config), "--workdir", str(tmp_path / "work")]) == 0
    results = [json.loads(line) for line in (tmp_path / "work" / "results.jsonl").read_text().splitlines()]
    assert [result["arm"] for result in results] == ["vanilla", "bridged_plus_plus"]
    assert all(0 <= result["test_accuracy"] <= 1 for result in results)
    assert (tmp_path / "work" / "report.html").is_file()
