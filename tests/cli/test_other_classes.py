"""A stage on synthetic images of other classes than the task's: its set, its head, resuming, the report, bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bridgejax.cli import main
from bridgejax.config import Settings, default_config
from bridgejax.data import synthetic_examples
from bridgejax.models import load_classifier
from bridgejax.studies.label_space import class_names_of
from bridgejax.training.stages import fit_head
from tests.small_backbones import write_backbone, write_clip
from tests.small_study import write_study

OTHERS = ("a boat", "a hill", "a cup")
KILLED_AT_COMMIT = """
import os, signal, sys
from pathlib import Path
from bridgejax.cli import main

rename = os.rename

def renamed(source, destination):
    if Path(str(destination)).name == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, destination)

os.rename = renamed
main(sys.argv[2:])
"""


@pytest.fixture
def config_file(tmp_path, tiny_generator):
    file = write_study(tmp_path, tiny_generator, seeds=1)
    pretrain = '{"data": "synthetic", "synthetic_set": "others"}'
    file.write_text(
        file.read_text().replace(
            "    return config\n",
            f'    config.synthetic_sets.others = {{"synthetic": {{"class_names": {OTHERS}}}}}\n'
            f'    config.recipes.pretrained = ({pretrain}, {{"data": "real"}})\n'
            f"    config.classifier.weights = {str(write_backbone('timm resnet', tmp_path / 'backbone'))!r}\n"
            "    config.training.base_steps = 22\n"
            '    config.arms = ("pretrained",)\n'
            '    config.study.baseline = "pretrained"\n'
            "    return config\n",
        )
    )
    return file


def results(workdir: Path) -> list[object]:
    left_out = ("seconds", "task")
    lines = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in left_out} for line in lines]


def test_a_study_pretrains_on_other_classes(config_file, tmp_path, capsys):
    whole = tmp_path / "whole"
    assert main(["run", "--config", str(config_file), "--workdir", str(whole)]) == 0
    (line,) = results(whole)
    assert line["classes"] == ["green things", "red things"]
    assert len(line["confusion"]) == 2
    tested = [entry["step"] for entry in line["history"] if "test_accuracy" in entry]
    assert tested == [44]  # the other classes have no test images
    images = synthetic_examples(whole / "synthetic_sets" / "others", class_names=OTHERS)
    assert images.counts(3).tolist() == [6, 6, 6]  # of 2 classes with 8: 16 in all, rounded up to whole rows
    assert not (whole / "synthetic").exists()
    assert "synthetic of other classes → real" in (whole / "report.html").read_text()

    capsys.readouterr()
    assert main(["doctor", "--config", str(config_file)]) == 0
    assert main(["work", "list", "--config", str(config_file), "--workdir", str(whole)]) == 0
    assert capsys.readouterr().out.count("synthetic_sets/others ") == 5  # shards of four of 18 images


@pytest.mark.slow
def test_killed_in_either_stage_it_ends_with_the_same_numbers(config_file, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["run", "--config", str(config_file), "--workdir", str(whole)]) == 0
    arguments = ["run", "--config", str(config_file), "--workdir", str(killed)]
    for step in ("22", "42"):  # from step 20, on the other classes, and from step 32, on the task's
        code = subprocess.run([sys.executable, "-c", KILLED_AT_COMMIT, step, *arguments], check=False, capture_output=True)
        assert code.returncode == -9
        assert list(killed.glob("runs/*/*/checkpoints/*"))
    assert main(arguments) == 0
    assert results(killed) == results(whole)


def test_the_classes_decide_the_result(config_file, tmp_path):
    workdir = tmp_path / "work"
    shorter = ["--config.training.base_steps=2", "--config.study.seeds=2", "--config.study.parallel_seeds=2"]
    arguments = ["run", "--config", str(config_file), "--workdir", str(workdir), *shorter]
    assert main(arguments) == 0
    text = config_file.read_text()
    config_file.write_text(text.replace("a boat", "a ship"))
    assert main(arguments) == 2
    names = ", ".join(repr(name) for name in ("green things", "red things"))
    config_file.write_text(text.replace(str(OTHERS), f"({names})"))
    assert main([*arguments[:4], str(tmp_path / "same"), *shorter]) == 0
    assert "of other classes" not in (tmp_path / "same" / "report.md").read_text()


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        ("({0},)", (), "and is the last, so that nothing could be evaluated"),
        ("({**{0}, 'data': 'mixed'}, {1})", (), "which do not mix with real ones"),
        ("({**{0}, 'loss': 'soft_target', 'teacher': 'pretrained'}, {1})", (), "with which teacher='pretrained' does not go"),
        ("({0}, {**{1}, 'restart_optimizer': False})", (), "whose moments do not fit; set restart_optimizer=True"),
        ("({**{0}, 'synthetic_filter': ('real',)}, {1})", (), "has other classes than the task (a boat, a hill"),
        ("({0}, {1})", ("--config.synthetic.real_guidance=0.5",), "but synthetic.class_names names other classes"),
        (
            "({0}, {1})",
            ("--config.synthetic_sets.others.synthetic.class_names=boats",),
            "neither a list of names nor a source of some",
        ),
        ("({0}, {1})", ("--config.synthetic_sets.others.synthetic.class_names=task:cifar",), "is not a task of the catalogue"),
        ("({0}, {1})", ("--config.synthetic_sets.others.synthetic.class_names=file:none.txt",), "cannot be read"),
    ],
)
def test_what_does_not_go_with_other_classes_is_said(config_file, tmp_path, capsys, stages, options, message):
    first, then = '{"data": "synthetic", "synthetic_set": "others"}', '{"data": "real"}'
    recipe = f"({first}, {then})"
    assert recipe in config_file.read_text()
    made = stages.replace("{0}", first).replace("{1}", then)
    config_file.write_text(config_file.read_text().replace(recipe, made))
    assert main(["run", "--config", str(config_file), "--workdir", str(tmp_path / "work"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "work").exists()


def test_a_head_of_texts_is_made_of_the_names_of_each_stage(tmp_path):
    folder, task, templates = write_clip(tmp_path / "clip"), ("cat", "dog"), ("a photo of a {}.", "a {}.")
    model = load_classifier(folder, class_names=task, templates=templates)
    for names in (OTHERS, task):
        fit_head(model, names, task, 0)
        made = load_classifier(folder, class_names=names, templates=templates)
        np.testing.assert_array_equal(model.head.kernel[...], made.head.kernel[...])
        assert model.class_names == names


def test_where_class_names_come_from(tmp_path):
    def names(stated: object) -> tuple[str, ...]:
        config = default_config()
        config.synthetic_sets.others = {"synthetic": {"class_names": stated}}
        return class_names_of(Settings.of(config).of_set("others"), ("cat", "dog"))

    (tmp_path / "names.txt").write_text("Zürich hill\n\n  cup \n")
    assert names(f"file:{tmp_path / 'names.txt'}") == ("Zürich hill", "cup")
    assert names("task:imagenet")[:2] == ("tench", "goldfish")
    assert len(names("builtin:tux_photos")) == 11
    assert names(("Dog", "cat")) == ("cat", "dog")  # the task's own, in its order
    assert names(()) == ("cat", "dog")
