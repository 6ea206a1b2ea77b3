"""A detector learns boxes, the same ones each time; its results are written once."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bridgejax.data.boxed_images import read_boxed_images
from bridgejax.errors import UserError
from bridgejax.training.detection_run import (
    DetectionOptions,
    FoundBoxes,
    as_coco_results,
    detect,
    detection_precisions,
    find_boxes,
    train_detector,
)
from tests.small_backbones import write_backbone
from tests.small_boxed_set import write_boxed_set


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_boxed_set(tmp_path_factory.mktemp("boxed") / "set")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    weights = str(write_backbone("timm resnet", tmp_path_factory.mktemp("weights")))
    return DetectionOptions(weights, steps=60, batch_size=4, side=64, learning_rate=0.005)


def test_four_images_are_learned(folder, options):
    data = read_boxed_images(folder / "train", 64)
    found = find_boxes(train_detector(data, options), data.images, batch_size=3)
    assert detection_precisions(found, data).mean() > 0.9
    # The best box of each class, in COCO's words.
    best = {(row["image_id"], row["category_id"]): row["bbox"] for row in reversed(as_coco_results(found, data))}
    true = json.loads((folder / "train/annotations.json").read_text())["annotations"]
    errors = [np.abs(np.subtract(best[each["image_id"], each["category_id"]], each["bbox"])).max() for each in true]
    assert np.median(errors) < 6


def test_crowds_do_not_count(folder):
    data = read_boxed_images(folder / "test", 64)
    found = FoundBoxes(data.boxes, data.labels, np.ones(data.labels.shape, np.float32))
    assert detection_precisions(found, data).tolist() == [1, 1]
    data.difficult[:, 1] = True
    found.scores[0, 0] = 0
    precisions = detection_precisions(found, data)
    assert precisions[0] == pytest.approx(2 / 3)
    assert np.isnan(precisions[1])


def test_a_run_repeats_and_a_finished_one_is_read(folder, options, tmp_path, monkeypatch):
    short = replace(options, steps=3)
    results = [detect(folder, tmp_path / name, short) for name in ("a", "b")]
    assert results[0] == results[1]
    assert (tmp_path / "a/found.json").read_bytes() == (tmp_path / "b/found.json").read_bytes()
    assert set(results[0]["average_precision"]) == {"disc", "square"}
    assert (results[0]["images"], results[0]["boxes"]) == (3, 6)
    monkeypatch.setattr("bridgejax.training.detection_run.train_detector", None)
    assert detect(folder, tmp_path / "a", short) == results[0]
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["config.json", "detection.json", "found.json"]
    with pytest.raises(UserError, match=r"the work of another config \(steps: 3 → 4\)"):
        detect(folder, tmp_path / "a", replace(short, steps=4))
    content = json.loads((folder / "test/annotations.json").read_text())
    other = write_boxed_set(tmp_path / "other")
    content["categories"][0]["name"] = "ball"
    (other / "test/annotations.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="the categories of train and test differ"):
        detect(other, tmp_path / "c", short)
    assert not (tmp_path / "c").exists()


def test_where_a_detector_starts(folder, options, monkeypatch):
    data = read_boxed_images(folder / "train", 64)

    def after_a_step(**changes):
        model = train_detector(data, replace(options, steps=1, **changes))
        return np.asarray(model.backbone.conv1.kernel[...]), np.asarray(model.head.out.kernel[...])

    usual, frozen, fresh = (after_a_step(**changes) for changes in ({}, {"frozen": True}, {"random": True, "seed": 1}))
    from bridgejax.models import load_classifier

    published = np.asarray(load_classifier(options.weights).conv1.kernel[...])
    np.testing.assert_array_equal(frozen[0], published)
    assert 0 < np.abs(usual[0] - published).max() < 0.01
    assert np.abs(fresh[0] - published).max() > 0.1
    np.testing.assert_array_equal(usual[1].shape, frozen[1].shape)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"side": 100}, "side is 100; give a multiple of 32"),
        ({"side": 32}, "side is 32; give a whole number of at least 64"),
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"random": True, "frozen": True}, "choose one of random and frozen"),
    ],
)
def test_wrong_options_get_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        DetectionOptions(**changes)
