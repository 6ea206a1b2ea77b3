"""`bridgejax tune` judges on validation images alone, and `run` takes what it chose."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgejax.cli import main
from bridgejax.data import pixels

ARMS = "--config.arms=('vanilla_long', 'real_reset_real')"


@pytest.fixture(scope="module")
def split_folder(tmp_path_factory) -> Path:
    """Two digits with parts for training and for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    root = tmp_path_factory.mktemp("digits_split")
    for digit, name in enumerate(("zero", "one")):
        pictures = digits.images[digits.target == digit]
        for part, chosen in (("train", pictures[:10]), ("test", pictures[10:14])):
            (root / part / name).mkdir(parents=True)
            for number, image in enumerate(chosen):
                grey = np.uint8(255 - image * 255 / 16)
                Image.fromarray(grey).resize((24, 24)).save(root / part / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def seen() -> set[str]:
    """The images that were decoded while tuning."""
    return set()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, config_file, split_folder, seen) -> Path:
    workdir = tmp_path_factory.mktemp("tuned") / "work"
    original = pixels.decode_example

    def decode(examples, position, shorter_side):
        seen.add(examples.ids[position])
        return original(examples, position, shorter_side)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "decode_example", decode)
        assert main(["tune", *arguments(config_file, split_folder), "--workdir", str(workdir)]) == 0
    return workdir


def arguments(config_file: Path, task: Path, *more: str) -> list[str]:
    return [
        *("--config", str(config_file), f"--config.task.source=folder:{task}", ARMS),
        *("--config.task.shots=5", "--config.task.validation_per_class=2"),
        *("--config.tuning.learning_rates=1e-4,0.02", "--config.tuning.lengths=1,3", "--config.tuning.seeds=1"),
        *more,
    ]


def record(workdir: Path) -> dict:
    return json.loads((workdir / "tuning.json").read_text())


def test_every_arm_gets_the_same_budget_and_the_best_is_recorded(tuned):
    found = record(tuned)
    grid = {(rate, length) for rate in (1e-4, 0.02) for length in (1.0, 3.0)}
    for arm in ("vanilla_long", "real_reset_real"):
        rows = [row for row in found["candidates"] if row["arm"] == arm]
        assert {(row["learning_rate"], row["length"]) for row in rows} == grid
        assert [row["train_steps"] for row in rows] == [6, 6, 18, 18]
        assert all(len(row["each"]) == 1 for row in rows)
        best = max(row["accuracy"] for row in rows)
        equal = [row for row in rows if row["accuracy"] == best]
        chosen = found["chosen"][arm]
        assert chosen["accuracy"] == best
        first = min(equal, key=lambda row: (row["length"], row["learning_rate"]))
        assert (chosen["learning_rate"], chosen["length"]) == (first["learning_rate"], first["length"])
        assert chosen["base_steps"] == 3 * first["length"]
    table = (tuned / "tuning.md").read_text()
    assert table.count("**") == 2 * 2
    assert "| real_reset_real | 0.02 | 3 | 18 |" in table


def test_the_test_part_is_neither_looked_at_nor_named(tuned, seen):
    assert len(seen) == 10
    assert all(name.startswith("train/") for name in seen)
    for file in tuned.rglob("result.json"):
        result = json.loads(file.read_text())["result"]
        assert not [key for key in result if key.startswith("test_")]
        assert len(result["validation_ids"]) == 4
        assert all(name.startswith("train/") for name in result["validation_ids"])
        assert not [key for entry in result["history"] for key in entry if key.startswith("test_")]


def test_the_second_call_trains_nothing(tuned, config_file, split_folder):
    before = {file: file.stat().st_mtime_ns for file in tuned.rglob("result.json")}
    assert main(["tune", *arguments(config_file, split_folder), "--workdir", str(tuned)]) == 0
    assert {file: file.stat().st_mtime_ns for file in tuned.rglob("result.json")} == before


def test_a_run_takes_each_arms_rate_and_length_wherever_the_images_lie(tuned, config_file, split_folder, tmp_path):
    moved = shutil.copytree(split_folder, tmp_path / "moved" / split_folder.name)
    file = tmp_path / "tuning.json"
    found = record(tuned)
    found["chosen"]["vanilla_long"].update(learning_rate=0.02, base_steps=9)
    found["chosen"]["real_reset_real"].update(learning_rate=1e-4, base_steps=3)
    file.write_text(json.dumps(found))
    given = arguments(config_file, moved, f"--config.training.tuned={file}", "--config.study.seeds=1")
    assert main(["run", *given, "--workdir", str(tmp_path / "work")]) == 0
    lines = (tmp_path / "work" / "results.jsonl").read_text().splitlines()
    results = {result["arm"]: result for result in map(json.loads, lines)}
    assert {arm: result["train_steps"] for arm, result in results.items()} == {"vanilla_long": 18, "real_reset_real": 6}
    first = {
        arm: next(e["learning_rate"] for e in result["history"] if "learning_rate" in e) for arm, result in results.items()
    }
    assert first == pytest.approx({"vanilla_long": 0.02, "real_reset_real": 1e-4})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("--config.classifier.image_size=48", "was made for another classifier"),
        ("--config.task.class_names=zero,one", "another class names (['one', 'zero'], not ['zero', 'one'])"),
        ("--config.task.shots=4", "shots [5], not 4"),
        ("--config.training.batch_size=4", "another batch size (8, not 4)"),
        ("--config.training.weight_decay=0.1", "another recipe of arm 'vanilla_long'"),
        ("--config.arms=vanilla_long,vanilla", "has no rates for arm 'vanilla'"),
        ("--config.training.tuned=nowhere.json", "nowhere.json is missing"),
    ],
)
def test_a_record_of_something_else_is_refused(tuned, config_file, split_folder, tmp_path, capsys, changed, told):
    given = arguments(config_file, split_folder, f"--config.training.tuned={tuned / 'tuning.json'}", changed)
    assert main(["run", *given, "--workdir", str(tmp_path / "work")]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert told in errors[0]
    assert not (tmp_path / "work").exists()


def test_a_record_of_other_images_is_refused(tuned, config_file, split_folder, tmp_path, capsys):
    other = shutil.copytree(split_folder, tmp_path / "other" / split_folder.name)
    shutil.copy(other / "train" / "zero" / "1.png", other / "train" / "zero" / "0.png")
    old = record(tuned)
    del old["made_for"]["images"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    for task, file, told in (
        (other, tuned / "tuning.json", "was made for other real images"),
        (split_folder, tmp_path / "old.json", "was made for real images that it does not name; tune for this config"),
    ):
        given = arguments(config_file, task, f"--config.training.tuned={file}")
        assert main(["run", *given, "--workdir", str(tmp_path / "work")]) == 2
        errors = capsys.readouterr().err.strip().splitlines()
        assert len(errors) == 1
        assert told in errors[0]
        assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("at_once", ["1", "auto"])
def test_a_candidate_that_diverges_has_lost_and_the_rest_goes_on(config_file, split_folder, tmp_path, capsys, at_once):
    def tune(rates: str) -> int:
        given = ("--config.arms=vanilla_long", "--config.tuning.lengths=1", f"--config.tuning.learning_rates={rates}")
        more = (*given, "--config.tuning.seeds=2", f"--config.study.parallel_seeds={at_once}")
        return main(["tune", *arguments(config_file, split_folder, *more), "--workdir", str(tmp_path / "work")])

    assert tune("1e30,") == 2
    assert "every candidate of arm 'vanilla_long' diverged" in capsys.readouterr().err.strip().splitlines()[-1]
    assert tune("1e30,0.001") == 0
    assert "tune: 2 of 4 runs" in capsys.readouterr().err
    lost, kept = record(tmp_path / "work")["candidates"]
    assert (lost["diverged"], lost["accuracy"], lost["each"]) == (True, None, [])
    assert (kept["diverged"], len(kept["each"])) == (False, 2)
    assert record(tmp_path / "work")["chosen"]["vanilla_long"]["learning_rate"] == 0.001
    assert "| vanilla_long | 1e+30 | 1 | 6 | diverged |" in (tmp_path / "work" / "tuning.md").read_text()
    assert not list(tmp_path.rglob("checkpoints"))
    assert tune("1e30,0.001") == 0
    assert "runs" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("--config.task.validation_per_class=0",), "never on the test part; set it to at least 1"),
        (("--config.task.validation_per_class=5",), "below task.shots=5"),
        (("--config.tuning.learning_rates=0.1,0.1",), "different numbers above 0"),
        (("--config.tuning.seeds=0",), "tuning.seeds is 0"),
        (
            ("--config.recipes.mine=[{'learning_rate': 0.1}]", "--config.arms=mine", "--config.study.baseline=mine"),
            "recipes.mine[0] states its own learning_rate",
        ),
        (
            ("--config.tuning.lengths=1,1.01", "--config.training.base_steps=3"),
            "same number of steps at two of tuning.lengths",
        ),
    ],
)
def test_what_cannot_be_tuned_gets_one_sentence(config_file, split_folder, tmp_path, capsys, changed, told):
    assert main(["tune", *arguments(config_file, split_folder, *changed), "--workdir", str(tmp_path / "work")]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert told in errors[0]
    assert not (tmp_path / "work").exists()
