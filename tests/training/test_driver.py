"""The loop of a run: it yields after each step, stops at the step it is given, and resumes from there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from flax import nnx
from training_fixtures import Streams, TinyNet, examples, task

from bridgejax.errors import UserError
from bridgejax.recipes import recipe_from_config
from bridgejax.training import RunInputs, RunOptions
from bridgejax.training.driver import RunDriver
from bridgejax.training.loop import FETCH_EVERY, train_run, train_stage
from bridgejax.training.stacked import StackedStep, StackedStepper

STAGES = [
    {"data": "synthetic", "steps": 2 * FETCH_EVERY + 3, "mixup_alpha": 0.2},
    {"data": "real", "steps": 4, "reset": "head"},
]


def driver(seed=0, stages=STAGES, **options):
    recipe = recipe_from_config("mine", stages, {"batch_norm": "train"})
    inputs = RunInputs(TinyNet(nnx.Rngs(seed)), task(), seed, examples(30, 5, "s"))
    return RunDriver(recipe, inputs, RunOptions(batch_size=6, eval_batch_size=5, image_size=8, **options), Streams())


def finished(run):
    for _ in train_run(run):
        pass
    return run.result()


def test_a_run_hands_over_after_each_step_stops_where_it_is_told_and_goes_on():
    run, whole = driver(), finished(driver())
    assert [run.step for _ in train_run(run, 5)] == [1, 2, 3, 4, 5]
    assert [run.step for _ in train_run(run, 24)] == list(range(6, 25))
    assert run.record.stage_steps == [23, 1]
    result = finished(run)
    assert run.is_finished
    np.testing.assert_array_equal(result.state.params["head.kernel"], whole.state.params["head.kernel"])
    assert result.history == whole.history
    assert result.metrics["correct"] == whole.metrics["correct"]


def test_a_run_evaluated_on_validation_images_never_meets_the_test_images():
    seen = []

    class Watched(Streams):
        def eval_batches(self, examples, **settings):
            seen.extend(examples.ids)
            return super().eval_batches(examples, **settings)

    recipe = recipe_from_config("mine", STAGES[1:], {"batch_norm": "train"})
    judged = dataclasses.replace(task(), validation=examples(6, 9, "validation"))
    inputs, options = RunInputs(TinyNet(nnx.Rngs(0)), judged), RunOptions(batch_size=6, image_size=8, eval_split="validation")
    result = finished(RunDriver(recipe, inputs, options, Watched()))
    assert {*seen} == {*judged.validation.ids}
    assert len(result.metrics["correct"]) == 6
    with pytest.raises(UserError, match="has no validation images"):
        RunDriver(recipe, dataclasses.replace(inputs, task=task()), options, Watched())


def test_runs_that_take_turns_end_as_they_do_alone():
    runs = [driver(seed) for seed in range(2)]
    work = [train_run(run) for run in runs]
    for _ in range(9):
        for steps in work:
            next(steps)
    assert [run.step for run in runs] == [9, 9]
    for steps, run in zip(work, runs, strict=True):
        list(steps)
        expected = finished(driver(run.inputs.seed))
        np.testing.assert_array_equal(run.state.params["conv.kernel"], expected.state.params["conv.kernel"])


def test_stacked_runs_hold_no_state_but_where_it_is_asked_for():
    runs = [driver(seed, evaluations=3) for seed in range(2)]
    plan = runs[0].plans[0]
    streams = [run.batches(plan) for run in runs]
    batches = [next(run.batches(plan)) for run in (driver(0), driver(1))]
    for run in runs:
        run.enter(plan)
    step = StackedStep(runs[0].step_of(plan))
    step.prepare([run.state for run in runs], batches)
    for _ in train_stage(StackedStepper(runs, plan, step, streams), plan, plan.end):
        with pytest.raises(RuntimeError, match="stacked"):
            _ = runs[0].state
    assert runs[0].state.step == runs[1].state.step == plan.end
    assert [entry["step"] for entry in runs[1].record.history if "test_accuracy" in entry] == [9, 18]


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, [23, 27]), ({"evaluations": 0}, [27]), ({"evaluations": 3}, [9, 18, 27]), ({"eval_every": 10}, [10, 20, 27])],
)
def test_the_test_split_is_evaluated_when_the_options_say(options, steps):
    result = finished(driver(**options))
    assert [entry["step"] for entry in result.history if "test_accuracy" in entry] == steps
