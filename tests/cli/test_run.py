"""The main job, end to end: run, run again, killed and run again."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from bridgejax.cli import main


def _without_seconds(value):
    if isinstance(value, dict):
        return {key: _without_seconds(item) for key, item in value.items() if "seconds" not in key}
    return [_without_seconds(item) for item in value] if isinstance(value, list) else value


def _results(workdir: Path) -> list[dict]:
    return [_without_seconds(json.loads(line)) for line in (workdir / "results.jsonl").read_text().splitlines()]


def _set_files(workdir: Path) -> dict[str, bytes]:
    folder = workdir / "synthetic"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _leftovers(workdir: Path) -> list[str]:
    names = [path.name for path in workdir.rglob("*")]
    return [name for name in names if name.startswith((".", "tmp")) or "orbax-checkpoint-tmp" in name]


def test_a_run_leaves_results_and_a_report(finished):
    results = _results(finished)
    assert [(r["arm"], r["seed"]) for r in results] == [
        (arm, seed) for arm in ("vanilla_long", "bridged_plus_plus") for seed in (0, 1)
    ]
    for result in results:
        assert 0 <= result["test_accuracy"] <= 1
        assert result["shots"] == 2
        assert result["train_steps"] == 6
        assert result["per_class"] == (0 if result["arm"] == "vanilla_long" else 8)
        assert len(result["test_ids"]) == len(result["correct"]) == 18
    html = (finished / "report.html").read_text()
    assert "<b>2" not in html  # a class name is text, whatever it holds
    assert "zwölf" in html
    assert json.loads((finished / "summary.json").read_text())
    assert _leftovers(finished) == []


def test_the_synthetic_set_opens_without_bridgejax(finished):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(finished / "synthetic")
    examples = list(builder.as_dataset(split="train").as_numpy_iterator())
    assert len(examples) == 24
    assert {"image", "label", "prompt", "negative_prompt", "seed", "index"} <= set(examples[0])
    assert builder.info.features["label"].names == ["the number one", "zero", "zwölf & <b>2"]


def test_the_second_run_redoes_nothing(finished, config_file, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert main(["run", "--config", str(config_file), "--workdir", str(finished)]) == 0
    assert capsys.readouterr().out.split() == [str(finished / "report.html")]
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


SYNTHETIC, REAL, BRIDGED = (
    "synthetic/sidecars/00002*",
    "runs/vanilla_long/*/checkpoints/*",
    "runs/bridged_plus_plus/*/checkpoints/*",
)


@pytest.mark.parametrize(
    ("signal_sent", "milestones"),
    [
        pytest.param(signal.SIGKILL, (SYNTHETIC, REAL, BRIDGED), id="killed"),
        pytest.param(signal.SIGINT, (REAL,), id="interrupted", marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_anywhere_ends_with_the_same_results(finished, config_file, command, tmp_path, signal_sent, milestones):
    workdir = tmp_path / "work"
    for milestone in milestones:
        process = command("run", "--config", config_file, "--workdir", workdir)
        limit = time.monotonic() + 300
        while not list(workdir.glob(milestone)) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        process.send_signal(signal_sent)
        _, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors
        if signal_sent == signal.SIGINT and process.returncode:
            assert process.returncode == 130
            assert "rerun the command to resume" in errors
    process = command("run", "--config", config_file, "--workdir", workdir)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert _results(workdir) == _results(finished)
    assert _set_files(workdir) == _set_files(finished)
    assert _leftovers(workdir) == []


def test_a_workdir_does_not_continue_with_another_task(finished, config_file, capsys):
    assert main(["run", "--config", str(config_file), "--config.task.shots=3", "--workdir", str(finished)]) == 2
    errors = capsys.readouterr().err
    assert "task.shots: 2 → 3" in errors
    assert len(errors.strip().splitlines()) == 1


def test_an_arm_without_synthetic_images_is_trained_once_for_all_volumes(config_file, tmp_path, capsys):
    def run(*more: str) -> list[dict]:
        assert main(["run", "--config", str(config_file), *more, "--workdir", str(tmp_path / "work")]) == 0
        return [json.loads(line) for line in (tmp_path / "work" / "results.jsonl").read_text().splitlines()]

    first = run("--config.study.per_class=2,4", "--config.study.parallel_seeds=auto")
    assert "train: 6 of 6 runs" in capsys.readouterr().err
    lines = [(r["arm"], r["seed"], r["per_class"], r["volume"]) for r in first]
    assert lines == [
        (arm, seed, volume if arm == "bridged_plus_plus" else 0, volume)
        for volume in (2, 4)
        for arm in ("vanilla_long", "bridged_plus_plus")
        for seed in (0, 1)
    ]
    assert {**first[0], "volume": 4} == first[4]
    more = run("--config.study.per_class=8,2", "--config.arms=vanilla_long", "--config.study.seeds=1")
    assert "train:" not in capsys.readouterr().err
    assert more == [{**first[0], "volume": 8}, first[0]]
    assert json.loads((tmp_path / "work" / "summary.json").read_text())["runs"] == 2


def test_the_report_follows_results_and_config_whatever_stopped_it(finished, config_file, tmp_path):
    workdir = tmp_path / "work"
    shutil.copytree(finished, workdir)
    arguments = ["run", "--config", str(config_file), "--workdir", str(workdir)]
    summary = workdir / "summary.json"
    assert main([*arguments, "--config.study.baseline=bridged_plus_plus"]) == 0
    assert json.loads(summary.read_text())["baseline"] == "bridged_plus_plus"
    assert main([*arguments, "--config.arms=vanilla_long", "--config.study.seeds=1"]) == 0
    assert [(r["arm"], r["seed"]) for r in _results(workdir)] == [("vanilla_long", 0)]
    assert json.loads(summary.read_text())["runs"] == 1
    # As a kill leaves it between the results and the report, and as a full disk does.
    (workdir / "results.jsonl").write_bytes((finished / "results.jsonl").read_bytes())
    assert main(arguments) == 0
    assert json.loads(summary.read_text())["runs"] == 4
    for name in ("results.jsonl", "summary.json"):
        (workdir / name).write_bytes(b"")
    assert main(arguments) == 0
    assert _results(workdir) == _results(finished)
    assert json.loads(summary.read_text())["runs"] == 4


def test_a_study_leaves_results_that_report_reads(config_file, tmp_path, capsys):
    workdir = tmp_path / "work"
    arms = ["--config.arms=vanilla,vanilla_long", "--config.study.seeds=1"]
    assert main(["study", "--config", str(config_file), *arms, "--workdir", str(workdir)]) == 0
    assert capsys.readouterr().out.split() == [str(workdir / "results.jsonl")]
    assert not (workdir / "report.html").exists()
    assert main(["report", "--workdir", str(workdir)]) == 0
    assert json.loads((workdir / "summary.json").read_text())["order"] == ["vanilla", "vanilla_long"]


def test_a_trained_classifier_is_kept_and_loads_and_is_that_of_its_recipe(config_file, tmp_path, capsys):
    workdir = tmp_path / "one"

    def train(*more: str, command: str = "train") -> Path:
        options = ["--recipe", "vanilla", "--seed", "1"] if command == "train" else []
        assert main([command, "--config", str(config_file), *options, "--workdir", str(workdir), *more]) == 0
        return Path(capsys.readouterr().out.strip())

    from bridgejax.models import load_classifier

    folder = train()
    weights = folder / "classifier" / "model.safetensors"
    assert load_classifier(folder / "classifier").num_classes == 3
    assert not (workdir / "synthetic").exists()  # vanilla needs none
    assert [(r["arm"], r["seed"]) for r in _results(workdir)] == [("vanilla", 1)]
    before = weights.read_bytes()
    (folder / ".tmp-classifier").mkdir()  # as a kill leaves it
    (folder / ".tmp-classifier" / "config.json").touch()
    with (workdir / "results.jsonl").open("a") as lines:
        lines.write("[]\n")
    train()
    assert weights.read_bytes() == before
    other = "--config.recipes.vanilla=({'data':'real','learning_rate':0.1},)"
    train(other, "--config.arms=vanilla", command="run")
    assert [(r["arm"], r["seed"]) for r in _results(workdir)] == [("vanilla", 0), ("vanilla", 1)]
    train(other)
    assert weights.read_bytes() != before
    assert _leftovers(workdir) == []
