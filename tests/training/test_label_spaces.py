"""A run whose stages have different classes: heads, evaluations, and going on after a stop in either stage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from training_fixtures import Streams, examples, task, tiny_resnet

from bridgejax.errors import UserError
from bridgejax.recipes import recipe_from_config
from bridgejax.training import RunInputs, RunOptions, train_recipe

OTHERS = ("boat", "hill", "cup", "star")
STAGES = ({"data": "synthetic", "synthetic_set": "others", "steps": 5}, {"data": "real", "steps": 6})


class Stopped(Exception):
    """Stands for the end of the process."""


def train(directory, stop_at=None, stages=STAGES, other_classes=OTHERS):
    drawn = 0

    def on_batch(_):
        nonlocal drawn
        drawn += 1
        if drawn == stop_at:
            raise Stopped

    pictures = dataclasses.replace(examples(16, 5, "other"), labels=np.arange(16, dtype=np.int32) % len(OTHERS))
    others = {"others": other_classes} if other_classes else {}
    inputs = RunInputs(tiny_resnet(), task(), 3, {"others": pictures}, directory, other_classes=others)
    options = RunOptions(batch_size=6, eval_batch_size=4, image_size=8, checkpoint_every=1)
    return train_recipe(recipe_from_config("two", stages), inputs, options, streams=Streams(on_batch))


def test_each_stage_has_a_head_of_its_classes_and_a_stopped_run_goes_on(tmp_path):
    whole = train(tmp_path / "whole")
    model = whole.state.model
    assert (model.class_names, model.head.kernel.shape[1], model.num_classes) == (task().class_names, 3, 3)
    tested = [entry["step"] for entry in whole.history if "test_accuracy" in entry]
    assert tested == [11]  # of the other classes there are no test images
    for stop_at in (5, 8):  # in the first stage, and in the second
        with pytest.raises(Stopped):
            train(tmp_path / "stopped", stop_at)
        assert list((tmp_path / "stopped").iterdir())
    gone_on = train(tmp_path / "stopped")
    assert gone_on.metrics["correct"] == whole.metrics["correct"]
    for name, array in whole.state.params.items():
        np.testing.assert_array_equal(gone_on.state.params[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "mixed"}, "which do not mix with real ones"),
        ({"loss": "soft_target", "teacher": "pretrained"}, "with which teacher='pretrained' does not go"),
        ({"head": "cache"}, "with which head='cache' does not go"),
    ],
)
def test_what_goes_by_the_tasks_classes_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(tmp_path, stages=({**STAGES[0], **changes}, STAGES[1]))
    with pytest.raises(UserError, match="is the last, so that nothing could be evaluated"):
        train(tmp_path, stages=STAGES[:1])
