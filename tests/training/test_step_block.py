"""Steps on cached features go to the device in blocks; what a run leaves does not depend on where the blocks end."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from tuning_fixtures import SIDE, TUNING, CountingStreams, clip, pictures, task

from bridgejax.errors import Diverged, UserError
from bridgejax.recipes import recipe_from_config
from bridgejax.training import RunInputs, RunOptions, driver, feature_cache, loop, step_block, train_recipe
from bridgejax.training.driver import RunDriver

OPTIONS = RunOptions(batch_size=8, eval_batch_size=4, image_size=SIDE)
RECIPE = recipe_from_config("mine", [{"data": "synthetic", "steps": 70, **TUNING}, {"data": "real", "steps": 9, **TUNING}])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(autouse=True)
def forgotten():
    """What one test keeps in memory does not serve the next."""
    feature_cache._tables.clear()


def inputs(model, seed=0, directory=None, **changed):
    return RunInputs(model, dataclasses.replace(task(), **changed), seed, pictures(12, 5), directory)


def trained(model, options=OPTIONS, directory=None, streams=None):
    return train_recipe(RECIPE, inputs(model, directory=directory), options, streams=streams or CountingStreams())


def head_of(result):
    return {name: np.asarray(value) for name, value in result.state.params.items()}


def losses_of(result):
    return [entry for entry in result.history if "loss" in entry]


@pytest.mark.parametrize("options", [{"eval_every": 1}, {"evaluations": 7}, {"checkpoint_every": 5}])
def test_evaluations_and_checkpoints_change_no_step(model, options, tmp_path):
    plain = trained(model)
    paused = trained(model, dataclasses.replace(OPTIONS, **options), tmp_path if "checkpoint_every" in options else None)
    for name, value in head_of(plain).items():
        np.testing.assert_array_equal(head_of(paused)[name], value)
    assert losses_of(paused) == losses_of(plain)


def test_each_step_is_recorded_and_evaluations_come_where_they_are_asked_for(model):
    result = trained(model, dataclasses.replace(OPTIONS, eval_every=27))
    assert [entry["step"] for entry in result.history if "test_accuracy" in entry] == [27, 54, 79]
    assert [entry["step"] for entry in losses_of(result)] == list(range(1, 80))
    assert result.metrics["stage_steps"] == [70, 9]
    assert set(result.metrics["seconds"]) == {"train", "evaluate", "input_stall", "encode"}


def test_a_run_that_was_stopped_within_a_stage_goes_on_in_other_blocks(model, tmp_path):
    whole = trained(model)
    run = RunDriver(
        RECIPE, inputs(model, directory=tmp_path), dataclasses.replace(OPTIONS, checkpoint_every=13), CountingStreams()
    )
    run.resume()
    for _ in itertools.takewhile(lambda _: run.step < 39, loop.train_run(run)):
        pass
    run.close()
    after = trained(model, dataclasses.replace(OPTIONS, checkpoint_every=13), tmp_path)
    for name, value in head_of(whole).items():
        np.testing.assert_array_equal(head_of(after)[name], value)
    assert losses_of(after) == losses_of(whole)


def test_features_too_large_for_a_table_go_to_the_device_batch_by_batch(model, monkeypatch):
    plain = trained(model)
    monkeypatch.setattr(driver, "TABLE_BYTES", 1)
    monkeypatch.setattr(step_block, "BlockStep", None)
    for name, value in head_of(trained(model)).items():
        np.testing.assert_allclose(value, head_of(plain)[name], rtol=1e-5, atol=1e-7)


def test_a_loss_that_is_not_finite_is_reported_with_its_step(model, monkeypatch):
    class Broken(CountingStreams):
        def eval_batches(self, examples, **sizes):
            for batch in super().eval_batches(examples, **sizes):
                image = np.where(examples.labels[:1] >= 0, np.nan, 0) * np.ones_like(batch["image"], np.float32)
                yield {**batch, "image": image}

    with pytest.raises(Diverged, match="the loss is nan at step 1 of 79, stage 1"):
        trained(model, streams=Broken())


def test_a_label_that_no_class_has_is_refused(model):
    real = task().train
    wrong = dataclasses.replace(real, labels=np.full(len(real), 9, real.labels.dtype))
    recipe = recipe_from_config("mine", [{"data": "real", "steps": 3, **TUNING}])
    with pytest.raises(UserError, match="holds 9, but the model has"):
        train_recipe(recipe, inputs(model, train=wrong), OPTIONS, streams=CountingStreams())
