"""Each config of configs/he2023/ runs, reduced, with a small random CLIP model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridgejax.cli import main
from tests.small_backbones import write_backbone, write_clip

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "he2023"
# Everyone runs the first two, the others where time is no matter.
FILES = [
    pytest.param(name, marks=() if name in ("zero_shot", "few_shot") else pytest.mark.slow)
    for name in sorted(file.stem for file in FOLDER.glob("*.py"))
]
REDUCED = {
    "generator.steps": 1,
    "generator.guidance_scale": 1,
    "classifier.image_size": 32,
    "synthetic.per_class": 4,
    "training.base_steps": 3,
    "training.batch_size": 8,
    "study.seeds": 1,
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


def run(name, workdir, digits_folder, generator, clip, **changes):
    keys = {**REDUCED, "classifier.weights": clip, "generator.weights": generator, **changes}
    overrides = [f"--config.{key}={value}" for key, value in keys.items()]
    return main(["run", "--config", f"{FOLDER / name}.py:folder:{digits_folder}", "--workdir", str(workdir), *overrides])


@pytest.mark.parametrize("name", FILES)
def test_a_config_runs_to_its_report(name, tmp_path, digits_folder, tiny_generator, clip):
    few = name in ("few_shot", "few_shot_tuned")
    changes = {"study.shots": "2"} if few or name == "table7_order" else {}
    changes |= {"study.per_class": "2,4"} if name == "volume" else {}
    changes |= {"generator.steps": "3"} if few or name == "table5_real_images" else {}  # of which 0.4 is at least one
    if name in ("table8_pretraining", "table9_deit", "table11_moco"):
        kind = "timm deit" if name == "table9_deit" else "timm resnet"
        changes |= {"classifier.weights": write_backbone(kind, tmp_path / "backbone"), "task.shots": "2"}
    if name == "table11_moco":  # as many images as its queue has keys, of other classes too
        changes |= {"synthetic.per_class": "107", "training.batch_size": "64", "generator.batch_size": "64"}
    assert run(name, tmp_path / "work", digits_folder, tiny_generator, clip, **changes) == 0
    lines = [json.loads(line) for line in (tmp_path / "work" / "results.jsonl").read_text().splitlines()]
    steps = {line["arm"]: line["train_steps"] for line in lines}
    assert steps.pop("zero_shot", 0) == 0
    assert steps.pop("tip_adapter", 1) == 1
    assert set(steps.values()) <= ({4, 7} if name == "table8_pretraining" else {3, 4} if few else {3, 6})
    assert all(line["history"][-1]["step"] == line["train_steps"] for line in lines)  # the last step's, none chosen
    assert "the classifier as it is" in (tmp_path / "work" / "report.html").read_text() or name not in ("zero_shot", "few_shot")


def test_a_classifier_as_it_is_is_tuned_along(tmp_path, digits_folder, tiny_generator, clip):
    keys = {**REDUCED, "classifier.weights": clip, "generator.weights": tiny_generator, "arms": "zero_shot,tuned_real_long"}
    keys |= {"tuning.seeds": 1, "tuning.learning_rates": "(0.002,0.008)", "task.shots": 2, "study.baseline": "zero_shot"}
    overrides = [f"--config.{key}={value}" for key, value in keys.items()]
    config = f"{FOLDER / 'combined.py'}:folder:{digits_folder}"
    assert main(["tune", "--config", config, "--workdir", str(tmp_path), *overrides]) == 0
    chosen = json.loads((tmp_path / "tuning.json").read_text())["chosen"]
    assert set(chosen) == {"zero_shot", "tuned_real_long"}


def test_other_templates_are_another_study(tmp_path, digits_folder, tiny_generator, clip, capsys):
    assert run("zero_shot", tmp_path, digits_folder, tiny_generator, clip, arms="zero_shot,tuned_real") == 0
    changed = {"arms": "zero_shot,tuned_real", "classifier.templates": "('no {}',)"}
    assert run("zero_shot", tmp_path, digits_folder, tiny_generator, clip, **changed) == 2
    assert "classifier.templates" in capsys.readouterr().err


def test_a_head_that_no_layout_has_is_not_trained_to_be_kept(tmp_path, capsys):
    arguments = ["--config", str(FOLDER / "few_shot.py"), "--workdir", str(tmp_path / "work"), "--recipe", "coop"]
    assert main(["train", *arguments]) == 2
    assert "'coop' ends with a head that no published layout of classifiers has" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_head_of_texts_needs_a_model_that_reads(tmp_path, digits_folder, tiny_generator, capsys):
    weights = "builtin:efficientnet_lite0"
    assert run("zero_shot", tmp_path / "work", digits_folder, tiny_generator, weights) == 2
    assert "in a config leave classifier.templates empty" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
