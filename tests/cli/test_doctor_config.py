"""`bridgejax doctor --config` says of a wrong config what `bridgejax run` says, and makes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridgejax import doctor
from bridgejax.cli import main

WRONG = [
    ("generator.step=3", "'generator.steps'"),
    ("arms=brigded", "did you mean 'bridged'"),
    ("recipes.vanilla_long=({'data':'real','steps_of':'bridgd'},)", "not a recipe in this config"),
    ("task.source=folder:/nowhere/at/all", "/nowhere/at/all"),
    ("task.shots=50", "too few"),
    ("generator.weights=/no/generator", "/no/generator"),
    ("generator.steps=1001", "from 1 to 1000"),
    ("classifier.weights=/no/classifier", "/no/classifier"),
    ("arms=bridged_early_stop", "task.validation_per_class"),
    ("recipes.vanilla_long=({'data':'real','trainable':('nothing',)},)", "matches none of the"),
    ("training.tuned=/no/tuning.json", "/no/tuning.json"),
    ("mesh=(('data',7),)", "does not fit"),
]


@pytest.fixture
def without_devices(monkeypatch):
    """What the machine can do is tested elsewhere, and takes seconds."""
    monkeypatch.setattr(doctor, "_devices", lambda problems, dtype: [])
    monkeypatch.setattr(doctor, "_check_asset", lambda folder: None)


@pytest.mark.parametrize(("override", "sentence"), WRONG)
def test_doctor_refuses_what_run_refuses_in_the_same_words(
    capfd, config_file: Path, tmp_path: Path, without_devices, override: str, sentence: str
):
    changed = ["--config", str(config_file), f"--config.{override}"]
    assert main(["run", *changed, "--workdir", str(tmp_path / "work")]) == 2
    (refusal,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("bridgejax: ")]
    assert sentence in refusal
    assert main(["doctor", *changed]) == 2
    found = capfd.readouterr()
    # What is wrong in the config itself ends the command; what its data, weights and devices lack is a problem that it lists.
    assert (f"! {refusal.removeprefix('bridgejax: ')}" in found.out) if found.out else (refusal in found.err)
    assert list(tmp_path.iterdir()) == []


def test_doctor_finds_nothing_wrong_with_a_right_config(capfd, config_file: Path, without_devices):
    assert main(["doctor", "--config", str(config_file)]) == 0
    assert "all is well" in capfd.readouterr().out
