"""One call from a folder of photographs to a classifier: `bridgejax.improve`."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bridgejax
from bridgejax.errors import UserError
from bridgejax.improvement import Improved, budget, one_call
from bridgejax.improvement.budget import BASELINES, DESIGNS, Rates, fitting_design, seconds_of, spoken

SMALLEST = dataclasses.replace(DESIGNS[-1], per_class=4, choice_seeds=2)
FAST, SLOW = Rates(0.001, 0.1, 0.0001, 0.1, 0.02, 0.1), Rates(5.0, 5.0, 0.05, 5.0, 5.0, 5.0)


@pytest.fixture(scope="module")
def arguments(digits_folder, tmp_path_factory) -> dict[str, object]:
    """The digits with the embedded generator and classifier, and a workdir of its own."""
    return {"photos": digits_folder, "workdir": tmp_path_factory.mktemp("improve") / "work", "budget": "1h", "image_size": 32}


@pytest.fixture(scope="module")
def improved(arguments) -> Improved:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "DESIGNS", (SMALLEST,))
        return bridgejax.improve(**arguments)


def _records(folder: Path) -> list[dict]:
    return [json.loads(file.read_text())["result"] for file in sorted(folder.rglob("result.json"))]


def test_a_folder_gives_a_classifier_and_a_report(improved, arguments, digits_folder, capsys):
    assert improved.report.is_file()
    assert improved.class_names == ("the number one", "zero", "zwölf & <b>2") == improved.classifier.class_names
    (line,) = [r for r in _records(improved.report.parent / "runs" / improved.arm) if r["seed"] == 0]
    assert improved.accuracy == line["test_mean_per_class_accuracy"]
    # What it answers is what was measured: the test images, one by one, are right where the record says so.
    test = Path(arguments["workdir"]) / "photos" / digits_folder.name
    answers = improved.predict([test / name for name in line["test_ids"]])
    assert [int(answer == name.split("/")[1]) for answer, name in zip(answers, line["test_ids"], strict=True)] == line[
        "correct"
    ]
    picture = np.asarray(Image.open(test / line["test_ids"][0]).convert("RGB"))
    assert improved.predict(picture) == improved.predict([picture, picture])[:1] == answers[:1]
    assert callable(improved.classifier)
    assert improved.classifier.preprocessing.size == 224
    improved.show()
    shown = capsys.readouterr().out
    assert improved.arm in shown
    assert str(improved.report) in shown
    assert "&lt;b&gt;2" in improved._repr_html_()


def test_the_choice_is_made_on_images_that_are_never_tested(improved, arguments, digits_folder):
    workdir = Path(arguments["workdir"])
    photos = workdir / "photos" / digits_folder.name
    chosen_by = {name for record in _records(workdir / "choice" / "runs") for name in record["validation_ids"]}
    tested = {name for record in _records(workdir / "study" / "runs") for name in record["test_ids"]}
    trained = {path.relative_to(photos).as_posix() for path in photos.glob("train/*/*.png")}
    assert chosen_by <= trained
    assert not chosen_by & tested
    assert all("test_accuracy" not in record for record in _records(workdir / "choice" / "runs"))
    best = max(improved.validation_accuracy.values())
    assert improved.validation_accuracy[improved.arm] == best
    control = max(value for arm, value in improved.validation_accuracy.items() if arm in BASELINES)
    assert improved.arm in BASELINES or control < best


def test_a_second_call_continues(improved, arguments, monkeypatch, capfd):
    monkeypatch.setattr(one_call, "_measured", None)  # the plan is there already
    monkeypatch.setattr(budget, "DESIGNS", ())
    before = {path: path.stat().st_mtime_ns for path in improved.report.parent.rglob("*.json*")}
    before.pop(improved.report.parent / "config.json")
    again = bridgejax.improve(**arguments)
    assert dataclasses.asdict(again) == dataclasses.asdict(improved)
    assert "train:" not in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_budget_does_not_continue(improved, arguments):
    with pytest.raises(UserError, match=r"holds the work of budget=3600.0, not 60.0; give the same arguments"):
        bridgejax.improve(**{**arguments, "budget": "60s"})


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Calls that must be refused: gives the sentence, having seen that nothing was written."""
    monkeypatch.setattr(one_call, "_measured", lambda *_: SLOW)

    def call(photos, **options) -> str:
        with pytest.raises(UserError) as caught:
            bridgejax.improve(photos, workdir=tmp_path / "work", **options)
        assert not (tmp_path / "work").exists()
        return str(caught.value)

    return call


@pytest.mark.parametrize("unreadable", ["soon", "", "5 parsecs", "0s", "-3m", 0, True, float("nan")])
def test_a_budget_that_cannot_be_read(refused, digits_folder, unreadable):
    assert f"budget={unreadable!r} is not a length of time; write '90s'" in refused(digits_folder, budget=unreadable)


def test_a_budget_too_short_for_one_run(refused, digits_folder):
    sentence = refused(digits_folder, budget="5m")
    assert (
        "budget='5m' is too short for one run: 16 images per class, 2 recipes of 320 steps of the head take about" in sentence
    )
    fits = sentence.partition("give budget='")[2].partition("'")[0]
    assert DESIGNS[-1].seconds(SLOW, 3) < seconds_of(fits) < 1.2 * DESIGNS[-1].seconds(SLOW, 3)


def test_folders_that_are_no_task(refused, tmp_path):
    folder = tmp_path / "photos"
    assert f"folder {folder} was not found" in refused(folder)
    folder.mkdir()
    assert "is empty; expected class folders" in refused(folder)
    Image.new("RGB", (8, 8)).save(folder / "only.png")
    assert "holds no class folders" in refused(folder)
    for name, count in (("cat", 3), ("dog", 1)):
        (folder / name).mkdir()
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name / f"{number}.png")
    (folder / "only.png").unlink()
    assert "class 'dog' of" in (sentence := refused(folder))
    assert "has 1 images, too few for training and testing; add images." in sentence
    Image.new("RGB", (8, 8), "red").save(folder / "dog" / "1.png")
    assert "class 'dog' of" in (sentence := refused(folder))
    assert "has 1 image to train on; improve needs two" in sentence


def test_a_generator_that_is_not_there(tmp_path, digits_folder):
    with pytest.raises(UserError, match="nowhere"):
        bridgejax.improve(digits_folder, generator=tmp_path / "nowhere", workdir=tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_workdir_with_something_else(tmp_path, digits_folder):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else; choose a new or an empty folder"):
        bridgejax.improve(digits_folder, workdir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_workdir_among_the_photographs(digits_folder, monkeypatch):
    before = sorted(digits_folder.rglob("*"))
    monkeypatch.chdir(digits_folder)
    for photos, workdir in ((digits_folder, digits_folder / "work"), (".", None)):
        with pytest.raises(UserError, match="lies in the folder of the photographs"):
            bridgejax.improve(photos, workdir=workdir)
    assert sorted(digits_folder.rglob("*")) == before


def test_lengths_of_time():
    assert [seconds_of(text) for text in ("90s", "5m", "1h30m", "1h 30 min", "2.5 min", 7)] == [90, 300, 5400, 5400, 150, 7]
    assert [spoken(seconds) for seconds in (41, 119, 121, 3601, 7201)] == ["50s", "120s", "3m", "61m", "3h"]
    assert all(seconds <= seconds_of(spoken(seconds)) for seconds in np.geomspace(1, 1e6, 50))


def test_a_longer_budget_never_tries_less():
    fitting = [fitting_design(FAST, 10, seconds) for seconds in (0.1, *np.geomspace(1, 1e5, 40))]
    assert fitting[0] is None
    assert fitting[-1] == DESIGNS[0]
    places = [DESIGNS.index(design) for design in fitting if design is not None]
    assert places == sorted(places, reverse=True)
    costs = [design.seconds(FAST, 10) for design in DESIGNS]
    assert costs == sorted(costs, reverse=True)


def test_a_short_budget_does_not_measure_what_it_has_no_time_for():
    slow_layers = dataclasses.replace(FAST, step=None)
    assert fitting_design(slow_layers, 10, 1e9) == next(design for design in DESIGNS if design.heads_alone)


def test_importing_the_package_stays_light():
    heavy = "import sys, bridgejax; print(sorted({'jax', 'numpy', 'flax', 'tensorflow', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout.strip() == "[]"
