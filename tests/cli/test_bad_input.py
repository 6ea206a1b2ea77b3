"""Every wrong input: one sentence on stderr, an exit code, no traceback, no workdir."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bridgejax.cli import main


@pytest.fixture
def refused(capfd, config_file, tmp_path):
    """Runs a command that must be refused and returns its sentence."""

    def run(*arguments: object, command: str = "run", workdir: Path | None = None) -> str:
        target = workdir or tmp_path / "work"
        existed = target.exists()
        code = main([command, "--config", str(config_file), "--workdir", str(target), *map(str, arguments)])
        _, errors = capfd.readouterr()
        sentences = [line for line in errors.splitlines() if line.startswith("bridgejax: ")]
        assert code == 2, errors
        assert len(sentences) == 1, errors
        assert "Traceback" not in errors
        assert target.exists() == existed
        return sentences[0]

    return run


def _copy(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_a_missing_folder(refused):
    assert "folder /nowhere/at/all was not found" in refused("--config.task.source=folder:/nowhere/at/all")


def test_an_empty_folder(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is empty; expected class folders" in refused(f"--config.task.source=folder:{tmp_path / 'empty'}")


def test_one_class_only(refused, tmp_path, digits_folder):
    _copy(digits_folder / "zero", tmp_path / "single" / "zero")
    assert "has only one class ('zero')" in refused(f"--config.task.source=folder:{tmp_path / 'single'}")


def test_an_empty_class(refused, tmp_path, digits_folder):
    task = _copy(digits_folder, tmp_path / "task")
    (task / "hollow").mkdir()
    assert "hollow holds no images" in refused(f"--config.task.source=folder:{task}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is an empty file"),
        (b"not an image", "is not an image that can be read"),
        (b"\x89PNG\r\n\x1a\n broken", "is not an image that can be read"),
    ],
)
def test_a_file_that_is_no_image(refused, tmp_path, digits_folder, content, sentence):
    task = _copy(digits_folder, tmp_path / "task")
    (task / "zero" / "broken.png").write_bytes(content)
    assert f"broken.png {sentence}" in refused(f"--config.task.source=folder:{task}")


def test_more_shots_than_a_class_has(refused):
    assert "has 8 images, too few to take task.shots=50" in refused("--config.task.shots=50")
    assert "or study.shots where it is set" in refused("--config.study.shots=(50,)")


def test_an_unknown_key_suggests_the_nearest(refused):
    assert "'generator.steps'" in refused("--config.generator.step=3")


def test_an_unknown_recipe_suggests_the_nearest(refused):
    assert "'bridged'" in refused("--config.arms=brigded")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("--config.arms=bridged_early_stop", "set task.validation_per_class to at least 1"),
        ("--config.recipes.vanilla_long=({'data':'real','reset':'blocks:99','batch_norm':'train'},)", "resets 99 blocks"),
        ("--config.recipes.vanilla_long=({'data':'real','trainable':('nothing',)},)", "matches none of the"),
        ("--config.recipes.vanilla_long=({'data':'real','loss':'soft_target'},)", "needs a teacher"),
        ("--config.generator.steps=1001", "from 1 to 1000"),
    ],
)
def test_what_the_task_the_classifier_or_the_generator_lacks_shows_before_anything_is_made(refused, override, sentence):
    assert sentence in refused(override)


def test_an_unknown_command(capfd):
    assert main(["rum"]) == 2
    assert "did you mean 'run'" in capfd.readouterr().err


def test_a_missing_argument(capfd):
    assert main(["run", "--workdir", "x"]) == 2
    assert "--config" in capfd.readouterr().err


@pytest.mark.parametrize("harm", ["missing", "extra", "nan", "cut"])
def test_a_damaged_generator_is_named(refused, tmp_path, tiny_generator, harm):
    folder = _copy(tiny_generator, tmp_path / "generator")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = {name: np.array(value) for name, value in load_file(file).items()}
    name = "conv_in.weight"
    if harm == "missing":
        del tensors[name]
    elif harm == "extra":
        name = "conv_in.surplus"
        tensors[name] = np.zeros(3, np.float32)
    elif harm == "nan":
        tensors[name].flat[0] = np.nan
    save_file(tensors, file)
    if harm == "cut":
        name = file.name
        file.write_bytes(file.read_bytes()[:-100])
    assert name in refused(f"--config.generator.weights={folder}")


def test_a_generator_that_is_not_there(refused):
    assert "/no/generator" in refused("--config.generator.weights=/no/generator")


def test_a_classifier_that_is_not_there(refused):
    assert "/no/classifier" in refused("--config.classifier.weights=/no/classifier")


def test_a_workdir_that_cannot_be_written(refused):
    assert "--workdir /proc/bridgejax cannot be written" in refused(workdir=Path("/proc/bridgejax"))


def test_a_workdir_that_is_a_file(refused, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused(workdir=tmp_path / "file")


def test_a_full_disk(refused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    assert "only 0 MiB are free on its disk" in refused()


def test_a_workdir_with_other_files(refused, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    assert "holds files" in refused(workdir=tmp_path / "home")


def test_a_name_that_is_too_long(capfd, config_file, tmp_path):
    long = tmp_path / ("x" * 300)
    for arguments in (
        ("run", "--config", config_file, "--workdir", long),
        ("run", "--config", f"{long}.py", "--workdir", tmp_path / "work"),
        ("report", "--workdir", long),
    ):
        assert main(list(map(str, arguments))) == 2
        assert "a name is too long" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("--config.training.tuned=5", "training.tuned: 5 is missing"),
        ("--config.task.data_dir=5 --config.task.source=tfds:x", "tfds:x is not prepared under 5;"),
    ],
)
def test_a_number_that_is_taken_for_a_path(refused, override, sentence):
    assert sentence in refused(*override.split())


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_workdir_whose_config_is_damaged(refused, tmp_path, content):
    workdir = tmp_path / "damaged"
    workdir.mkdir()
    (workdir / "config.json").write_text(content)
    sentence = refused(workdir=workdir)
    assert "config.json" in sentence
    assert "choose a new --workdir" in sentence
    assert "delete" not in sentence  # without it the folder is refused as someone else's
    assert [file.name for file in workdir.iterdir()] == ["config.json"]


def test_a_report_of_nothing(capfd, tmp_path):
    assert main(["report", "--workdir", str(tmp_path)]) == 2
    assert "results.jsonl" in capfd.readouterr().err


def test_a_workdir_of_another_config(refused, tmp_path, config_file):
    from bridgejax.config import load_config, to_plain

    workdir = tmp_path / "other"
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(to_plain(load_config(str(config_file), [("seed", "9")]))))
    assert "seed: 9 → 0" in refused(workdir=workdir)
