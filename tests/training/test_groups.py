"""Seeds that train at once end as seeds that train alone, whatever stops them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from training_fixtures import Streams, TinyNet, examples, task

from bridgejax.errors import UserError
from bridgejax.mesh import make_mesh
from bridgejax.recipes import recipe_from_config
from bridgejax.training import RunInputs, RunOptions, groups, train_group, train_recipe

PROGRAM = Path(__file__).with_name("group_program.py")
STAGES = [
    {"data": "synthetic", "steps": 14, "mixup_alpha": 0.2, "warmup_steps": 3},
    {"data": "real", "steps": 11, "reset": "head", "label_smoothing": 0.1, "batch_norm": "frozen"},
]
SIZES = {"batch_size": 6, "eval_batch_size": 4, "image_size": 8, "evaluations": 3}


def tiny(seed, **options):
    return nnx.jit(lambda: TinyNet(nnx.Rngs(seed), dropout=0.2, **options))()


def task_of(seed):
    """Seeds draw other images, and so have other test parts of other sizes."""
    return dataclasses.replace(task(), train=examples(12, seed, "train"), test=examples(7 + seed, 50 + seed, "test"))


def members(count=3, directory=None, **options):
    return [
        RunInputs(
            tiny(seed, **options),
            task_of(seed),
            seed,
            examples(30, 5, "s"),
            None if directory is None else directory / str(seed),
        )
        for seed in range(count)
    ]


def alone(stages, member, streams=None, **options):
    recipe = recipe_from_config("mine", stages, {"batch_norm": "train"})
    return train_recipe(recipe, member, RunOptions(**{**SIZES, **options}), streams=streams or Streams())


def together(stages, given, strategy, streams=None, memory_bytes=None, **options):
    recipe = recipe_from_config("mine", stages, {"batch_norm": "train"})
    settings = {"streams": streams or Streams(), "strategy": strategy, "memory_bytes": memory_bytes}
    return train_group(recipe, given, RunOptions(**{**SIZES, **options}), **settings)


def same(found, expected, tolerance):
    """Weights within `tolerance` of the largest of their tensor; history and metrics alike but for times."""
    for name, value in {**expected.state.params, **expected.state.other}.items():
        if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
            continue
        got = {**found.state.params, **found.state.other}[name]
        scale = max(float(np.abs(value).max()), 1e-3)
        np.testing.assert_allclose(got, value, rtol=0, atol=tolerance * scale, err_msg=name)
    for key in ("correct", "confusion", "stage_steps", "train_steps"):
        assert found.metrics[key] == expected.metrics[key], key
    assert [sorted(entry) for entry in found.history] == [sorted(entry) for entry in expected.history]
    for one, other in zip(found.history, expected.history, strict=True):
        for key in other:
            assert one[key] == pytest.approx(other[key], rel=10 * tolerance + 1e-12, abs=1e-7), key


@pytest.mark.parametrize(("strategy", "tolerance"), [("vmap", 1e-4), ("interleave", 0.0)])
def test_seeds_together_equal_seeds_alone(strategy, tolerance):
    found = together(STAGES, members(), strategy)
    for member, result in zip(members(), found, strict=True):
        same(result, alone(STAGES, member), tolerance)
        assert result.metrics["seconds"]["train"] > 0
    weights = [result.state.params["head.kernel"] for result in found]
    assert np.abs(weights[0] - weights[1]).max() > 1e-3  # they are seeds, not copies


@pytest.mark.parametrize("strategy", ["vmap", "interleave"])
def test_weighted_losses_and_other_optimisers_train_together(strategy):
    class Sourced(Streams):
        def train_batches(self, sources, **options):
            for number, found in enumerate(super().train_batches(sources, **options)):
                yield {**found, "source": (np.arange(len(found["label"])) + number) % 2}

    mixed = {"data": "mixed", "steps": 6, "synthetic_share": 0.5, "synthetic_loss": 0.1, "optimizer": "adamw"}
    # No batch norm: a bias before it has gradient 0 but for rounding, which AdamW blows up to full steps.
    found = together([mixed], members(2, batch_norm=False), strategy, streams=Sourced())
    for member, result in zip(members(2, batch_norm=False), found, strict=True):
        same(result, alone([mixed], member, streams=Sourced()), 1e-3 if strategy == "vmap" else 0.0)


def test_one_program_serves_all_seeds_and_both_stages():
    model_stages = [{**STAGES[0], "steps": 5}, {**STAGES[1], "steps": 4, "batch_norm": "train"}]
    together(model_stages, members(2), "vmap", batch_size=5)
    before = TinyNet.traces
    again = together([{**stage, "learning_rate": 0.002} for stage in model_stages], members(2), "vmap", batch_size=5)
    assert TinyNet.traces == before
    assert len(again) == 2


def test_what_does_not_fit_trains_in_smaller_groups_or_one_by_one(capsys, monkeypatch):
    needed = []

    class Reported(groups.StackedStep):
        def prepare(self, states, given):
            needed.append(super().prepare(states, given))
            return needed[-1]

    monkeypatch.setattr(groups, "StackedStep", Reported)
    expected = together(STAGES, members(), "vmap")
    assert "at once take" not in capsys.readouterr().err
    state = 4 * sum(array.size for array in expected[0].state.params.values())
    assert needed[0] > 3 * 2 * state  # at least three seeds' weights and moments
    found = together(STAGES, members(), "vmap", memory_bytes=1)
    message = capsys.readouterr().err
    assert "3 seeds at once take" in message
    assert "one by one" in message
    for one, other in zip(found, expected, strict=True):
        same(one, other, 1e-4)
    pairs = together(STAGES, members(), "vmap", memory_bytes=int(max(needed) * 0.8))
    assert "2 at a time" in capsys.readouterr().err
    for one, other in zip(pairs, expected, strict=True):
        same(one, other, 1e-4)


class Shared(Streams):
    """Streams that come out of one pipeline, and strategy many runs shared each."""

    def __init__(self, on_batch=None):
        super().__init__(on_batch)
        self.groups = []

    def shared_train_batches(self, runs, *, seeds, **settings):
        self.groups.append(len(runs))
        return [self.train_batches(run, seed=seed, **settings) for run, seed in zip(runs, seeds, strict=True)]


def test_a_pipeline_is_shared_by_the_seeds_that_go_in_step_alone():
    streams = Shared()
    found = together(STAGES, members(), "vmap", memory_bytes=1, streams=streams)
    assert streams.groups == [3, 3, 3, 3]  # tried at once, then in turns, in each of two stages
    for member, result in zip(members(), found, strict=True):
        same(result, alone(STAGES, member), 1e-4)


@pytest.mark.parametrize("strategy", ["vmap", "interleave"])
def test_the_next_pipeline_is_made_while_a_stage_trains(strategy):
    second = threading.Event()

    class Waiting(Shared):
        def shared_train_batches(self, runs, **settings):
            made = super().shared_train_batches(runs, **settings)
            if len(self.groups) == 2:
                second.set()
            return made

    def wait_in_the_first_stage(step):
        assert step < STAGES[0]["steps"] - 1 or second.wait(60)

    found = together(STAGES, members(), strategy, streams=Waiting(wait_in_the_first_stage))
    for member, result in zip(members(), found, strict=True):
        same(result, alone(STAGES, member), 1e-4)


EARLY = [{"data": "synthetic", "steps": 40, "learning_rate": 0.1, "early_stop": 1, "early_stop_checks": 20}, STAGES[1]]


def with_validation(given):
    return [
        dataclasses.replace(member, task=dataclasses.replace(member.task, validation=examples(9, 2, "v"))) for member in given
    ]


def test_a_stage_that_stops_early_lets_each_seed_stop_by_itself():
    found = together(EARLY, with_validation(members()), "vmap")
    steps = [result.metrics["stage_steps"][0] for result in found]
    assert min(steps) < 40
    for member, result in zip(with_validation(members()), found, strict=True):
        same(result, alone(EARLY, member), 1e-4)


def test_seeds_that_were_stopped_at_different_steps_of_an_early_stop_go_on_as_alone(tmp_path):
    """The one behind may end its stage before it reaches the step of the one in front."""

    class Killed(Exception):
        pass

    def stop_at(last):
        def look(step):
            if step >= last:
                raise Killed

        return Streams(look)

    expected = {member.seed: alone(EARLY, member) for member in with_validation(members(5))}
    by_length = sorted(expected, key=lambda seed: expected[seed].metrics["stage_steps"][0])
    behind, front = by_length[0], by_length[-1]
    ends = expected[behind].metrics["stage_steps"][0]
    assert ends + 1 < expected[front].metrics["stage_steps"][0]
    given = [member for member in with_validation(members(5, tmp_path)) if member.seed in (behind, front)]
    for member in given:
        with pytest.raises(Killed):
            alone(EARLY, member, streams=stop_at(1 if member.seed == behind else ends + 1), checkpoint_every=1)
    for member, result in zip(given, together(EARLY, given, "interleave", streams=Shared()), strict=True):
        same(result, expected[member.seed], 0.0)


def test_a_seed_that_diverges_is_named_and_checkpoints_stay(tmp_path):
    hot = [{"data": "real", "steps": 12, "learning_rate": 1e20, "schedule": "constant", "warmup_steps": 0}]
    with pytest.raises(
        UserError, match=r"diverged: the (loss|gradient) is .* stage 1 \(real\) of 'mine', learning rate 1e\+20"
    ):
        together(hot, members(directory=tmp_path), "vmap", checkpoint_every=1)


def test_several_devices_and_unlike_models_get_one_sentence():
    with pytest.raises(UserError, match="one structure"):
        together(STAGES, [members(1)[0], members(2, batch_norm=False)[1]], "vmap")
    with pytest.raises(UserError, match="strategy is 'pmap'; use one of vmap, interleave"):
        together(STAGES, members(1), "pmap")
    empty = dataclasses.replace(task_of(0), test=examples(0, 0, "t"))
    with pytest.raises(UserError, match="no test images"):
        together(STAGES, [dataclasses.replace(members(1)[0], task=empty)], "vmap")


def test_a_mesh_of_one_device_changes_nothing():
    mesh = make_mesh([("data", 1)], devices=jax.devices()[:1])
    plain = together(STAGES, members(2), "vmap")
    for one, other in zip(together(STAGES, members(2), "vmap", mesh=mesh), plain, strict=True):
        same(one, other, 1e-6)


def start(folder: Path, name: str, kill_at: int, strategy: str) -> tuple[int, dict]:
    """Runs the program in its own process; returns its exit code and what it told."""
    output = folder / f"{name}.json"
    command = [sys.executable, str(PROGRAM), str(folder / name), str(output), str(kill_at), strategy]
    code = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=False).returncode
    return code, json.loads(output.read_text()) if code == 0 else {}


def test_killed_seeds_go_on_together_or_alone(tmp_path):
    code, whole = start(tmp_path, "whole", 0, "vmap")
    assert code == 0
    drawn = whole.pop("drawn")
    assert start(tmp_path, "killed", drawn // 2, "vmap")[0] == -signal.SIGKILL
    code, told = start(tmp_path, "killed", 0, "interleave")
    assert code == 0
    assert told.pop("drawn") < drawn  # they went on, and did not start anew
    assert told["correct"] == whole["correct"]
    np.testing.assert_allclose(told["weights"], whole["weights"], rtol=1e-3)
    assert start(tmp_path, "again", drawn // 2, "interleave")[0] == -signal.SIGKILL
    code, told = start(tmp_path, "again", 0, "vmap")
    assert code == 0
    assert told.pop("drawn") < drawn
    assert told["correct"] == whole["correct"]
    np.testing.assert_allclose(told["weights"], whole["weights"], rtol=1e-3)
