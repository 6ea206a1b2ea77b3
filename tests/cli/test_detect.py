"""`bridgejax detect`: what it prints and leaves, and one sentence for a wrong set."""

from __future__ import annotations

import json

import pytest

from bridgejax.cli import main
from tests.small_backbones import write_backbone
from tests.small_boxed_set import write_boxed_set


def test_a_detector_is_scored_by_class(tmp_path, capsys):
    boxed, weights = write_boxed_set(tmp_path / "boxed"), write_backbone("timm resnet", tmp_path / "weights")
    command = ["detect", str(boxed), "--workdir", str(tmp_path / "work"), "--weights", str(weights)]
    command += ["--steps", "2", "--batch-size", "2", "--side", "64", "--seed", "3"]
    printed = []
    for _ in range(2):
        assert main(command) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    lines = printed[0].splitlines()
    assert [line.split()[0] for line in lines] == ["disc", "square", "mean", str(tmp_path / "work/detection.json")]
    result = json.loads((tmp_path / "work/detection.json").read_text())
    assert f"{100 * result['ap50']:.1f}" == lines[2].split()[-1]
    assert result["settings"]["seed"] == 3


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "test/annotations.json").unlink(), "test/annotations.json is missing"),
        (lambda folder: (folder / "train/2.png").unlink(), "train/2.png, which annotations.json names, cannot be read"),
        (lambda folder: (folder / "train/annotations.json").write_text("{"), "is not readable JSON"),
    ],
)
def test_a_wrong_set_gets_one_sentence_and_no_workdir(damage, sentence, tmp_path, capsys):
    boxed = write_boxed_set(tmp_path / "boxed")
    damage(boxed)
    assert main(["detect", str(boxed), "--workdir", str(tmp_path / "work")]) == 2
    errors = capsys.readouterr().err
    assert sentence in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "work").exists()
