"""What a stage does at its start, to its batches, and when it ends early."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from training_fixtures import CLASSES, Streams, TinyNet, batch, examples, task

from bridgejax.data import train_batches
from bridgejax.data.examples import Examples
from bridgejax.data.images import encode_png
from bridgejax.errors import UserError
from bridgejax.models import load_classifier
from bridgejax.models.classifier import Preprocessing
from bridgejax.models.vit import VisionTransformer, ViTConfig
from bridgejax.recipes import Stage, recipe_from_config
from bridgejax.training import RunInputs, RunOptions, TrainState, make_optimizer, make_train_step, stages, train_recipe

PROGRAM = Path(__file__).with_name("resume_program.py")


def tiny(**options):
    return nnx.jit(lambda: TinyNet(nnx.Rngs(0), **options))()


def with_validation():
    return dataclasses.replace(task(), validation=examples(9, 2, "validation"))


def run(given, *, on=None, synthetic=None, streams=None, directory=None, **options):
    settings = RunOptions(batch_size=6, eval_batch_size=5, image_size=8, **options)
    recipe = recipe_from_config("mine", given, {"batch_norm": "train"})
    inputs = RunInputs(tiny(), on or task(), 0, synthetic, directory)
    return train_recipe(recipe, inputs, settings, streams=streams or Streams())


def test_a_stream_tells_where_each_image_comes_from():
    def pictures(n, value):
        image = encode_png(np.full((8, 8, 3), value, np.uint8))
        return Examples((image,) * n, np.zeros(n, np.int32), tuple(f"{value}-{k}" for k in range(n)))

    stream = train_batches([pictures(3, 10), pictures(9, 200)], weights=[0.75, 0.25], batch_size=8, image_size=8, seed=0)
    found = next(stream)
    np.testing.assert_array_equal(found["image"][:, 0, 0, 0] > 100, found["source"] == 1)
    assert found["source"].sum() == 2


def test_a_loss_weight_gives_each_kind_its_part_of_the_loss():
    model = tiny(batch_norm=False)
    data = batch(8)
    source = np.asarray([0, 1, 0, 1, 1, 0, 1, 0], np.int32)
    stage = Stage(data="mixed", synthetic_share=0.5, synthetic_loss=0.25)
    given = stages.with_loss_weights({**data, "mask": np.ones(8, np.float32), "source": source}, stage, [range(4), range(30)])

    def fresh():
        return TrainState.create(model, make_optimizer("sgd", 0.1))

    step = make_train_step()
    _, told = step(fresh(), given)
    alone = [step(fresh(), {key: value[source == kind] for key, value in data.items()})[1]["loss"] for kind in (0, 1)]
    np.testing.assert_allclose(told["loss"], 0.75 * alone[0] + 0.25 * alone[1], rtol=1e-6)
    # Without it every image is alike, and a batch needs no mask.
    plain = stages.with_loss_weights({**data, "mask": np.ones(8, np.float32), "source": source}, Stage(data="mixed"), [])
    assert set(plain) == {"image", "label"}
    # From the union, the shares are those of the sets.
    union = dataclasses.replace(stage, synthetic_share=None)
    mask = stages.with_loss_weights({**data, "source": source}, union, [range(10), range(30)])["mask"]
    np.testing.assert_allclose(mask, np.where(source == 1, 0.25 / 0.75, 0.75 / 0.25))


def test_the_loss_weight_reaches_training():
    class Sourced(Streams):
        def train_batches(self, sources, **options):
            for number, found in enumerate(super().train_batches(sources, **options)):
                yield {**found, "source": (np.arange(len(found["label"])) + number) % 2}

    mixed = {"data": "mixed", "steps": 3, "synthetic_share": 0.5, "learning_rate": 0.1, "weight_decay": 0.0}
    synthetic = examples(12, 5, "s")
    weights = [
        run([{**mixed, "synthetic_loss": w}], synthetic=synthetic, streams=Sourced()).state.params["head.kernel"]
        for w in (0.5, 0.1)
    ]
    plain = run([mixed], synthetic=synthetic, streams=Sourced()).state.params["head.kernel"]
    np.testing.assert_allclose(weights[0], plain, rtol=1e-4, atol=1e-6)
    assert np.abs(weights[1] - plain).max() > 1e-3


@pytest.mark.parametrize(
    ("what", "kept", "drawn"),
    [
        ("head", "blocks.15", "head"),
        ("blocks:2", "blocks.13", "blocks.14"),
        ("all", None, "conv_stem"),
    ],
)
def test_a_reset_draws_what_it_names_and_keeps_the_rest(what, kept, drawn):
    model = load_classifier("builtin:efficientnet_lite0", num_classes=CLASSES)
    before = {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))}
    structure = nnx.graphdef(model)
    stages.reset(model, what, 3, model)
    after = {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))}
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    kernels = {name for name in before if name.endswith("kernel")}
    assert any(name.startswith(drawn) for name in changed & kernels)
    assert "head.kernel" in changed
    if kept is None:
        assert kernels <= changed
    else:
        assert not any(name.startswith(kept) for name in changed)
        assert "conv_stem.kernel" not in changed
    assert nnx.graphdef(model) == structure  # so the compiled step serves it too


def test_both_heads_of_a_distilled_network_are_reset_in_a_recipe():
    config = ViTConfig("deit", "deit", 16, 8, 16, 1, 2, 32, distillation=True, both_heads=True)
    model = VisionTransformer(config, CLASSES, Preprocessing(16, (0.5,) * 3, (0.5,) * 3, 1.0), rngs=nnx.Rngs(0))
    recipe = recipe_from_config("mine", [{"data": "real", "steps": 1, "reset": "head", "learning_rate": 0.0}], {})
    stages.check_model(recipe, model)
    before = {name: np.asarray(getattr(model.head, name).kernel[...]) for name in ("cls", "dist")}
    stages.reset(model, "head", 3, model)
    for name, kernel in before.items():
        assert np.abs(np.asarray(getattr(model.head, name).kernel[...]) - kernel).max() > 1e-3
    assert model(np.zeros((2, 16, 16, 3), np.float32)).shape == (2, CLASSES)


def test_the_initial_head_comes_back_on_what_was_learned_below_it():
    still = {"data": "real", "steps": 1, "learning_rate": 0.0, "weight_decay": 0.0, "batch_norm": "frozen"}
    first, last = (
        {name: np.asarray(value) for name, value in run(given).state.params.items()}
        for given in ([still], [{"data": "real", "steps": 3, "learning_rate": 0.1}, {**still, "reset": "initial_head"}])
    )
    same = {name for name in first if np.array_equal(first[name], last[name])}
    assert same == {name for name in first if name.startswith("head.")}


def test_a_reset_of_more_than_there_is_gets_one_sentence_before_training():
    with pytest.raises(UserError, match="'mine' resets 2 blocks, but the model has 0"):
        run([{"data": "real", "steps": 4}, {"data": "real", "reset": "blocks:2"}])


class Counting(Streams):
    """Counts the batches that training drew."""

    def __init__(self):
        super().__init__(on_batch=self._count)
        self.drawn = 0

    def _count(self, step):
        self.drawn += 1


def test_an_early_stop_ends_the_stage_and_goes_on_from_the_best_look():
    streams = Counting()
    first = {"data": "synthetic", "steps": 200, "learning_rate": 0.1, "early_stop": 2, "early_stop_checks": 20}
    still = {"data": "real", "steps": 2, "learning_rate": 0.0, "weight_decay": 0.0, "batch_norm": "frozen"}
    result = run([first, still], on=with_validation(), synthetic=examples(30, 5, "s"), streams=streams)
    looks = [entry for entry in result.history if "validation_mean_per_class_accuracy" in entry]
    scores = [entry["validation_mean_per_class_accuracy"] for entry in looks]
    best = scores.index(max(scores))
    assert len(scores) == best + 3, scores  # two looks without a better one
    assert [entry["step"] for entry in looks] == [10 * k for k in range(1, best + 4)]
    done = looks[-1]["step"]
    assert done < 200
    assert result.metrics["stage_steps"] == [done, 2]
    assert result.metrics["train_steps"] == done + 2
    assert streams.drawn <= done + 2 + 2
    # The second stage changes nothing: what it ends with are the best look's weights.
    found = train_to(looks[best]["step"], first)
    np.testing.assert_allclose(result.state.params["head.kernel"], found.params["head.kernel"], rtol=1e-6)
    patient = run([{**first, "early_stop": 20}], on=with_validation(), synthetic=examples(30, 5, "s"))
    assert patient.metrics["stage_steps"] == [200]  # it never waits that long


def train_to(step, stage):
    """The state after so many steps of a stage whose schedule is that of the whole stage."""
    plan = stages.stage_plans(recipe_from_config("mine", [stage], {"batch_norm": "train"}))[0]
    state = stages.enter(plan, None, tiny(), 0)
    jitted = stages.step_of(plan.stage, None)
    from bridgejax.identity import derive_seed

    stream = Streams().train_batches(
        [examples(30, 5, "s")], weights=None, batch_size=6, image_size=8, seed=derive_seed(0, "batches", 0)
    )
    for _ in range(step):
        state, _ = jitted(state, stages.with_loss_weights(next(stream), plan.stage, []))
    return state


def test_an_early_stop_without_validation_images_gets_one_sentence():
    with pytest.raises(UserError, match=r"task.validation_per_class to at least 1"):
        run([{"data": "real", "steps": 9, "early_stop": 2}])


def test_the_test_part_is_not_looked_at_by_an_early_stop():
    class Watching(Streams):
        def eval_batches(self, found, **options):
            self.calls.append({"eval": found.ids[0]})
            return super().eval_batches(found, **options)

    streams = Watching()
    run([{"data": "real", "steps": 20, "early_stop": 1}], on=with_validation(), streams=streams)
    judged = [call["eval"] for call in streams.calls if "eval" in call]
    assert judged[0] == "validation0"
    assert judged.count("test0") == 1  # after the end


def start(folder: Path, name: str, kill_at: int) -> tuple[int, dict]:
    output = folder / f"{name}.json"
    command = [sys.executable, str(PROGRAM), str(folder / name), str(output), str(kill_at), "early"]
    code = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=False).returncode
    return code, json.loads(output.read_text()) if code == 0 else {}


def test_a_killed_run_with_an_early_stop_ends_with_the_same_numbers(tmp_path):
    code, whole = start(tmp_path, "whole", 0)
    assert code == 0
    drawn = whole.pop("drawn")
    assert start(tmp_path, "killed", drawn // 2)[0] == -signal.SIGKILL
    code, told = start(tmp_path, "killed", 0)
    assert code == 0
    assert told.pop("drawn") < drawn  # it went on, and did not start anew
    assert told == whole


def test_nan_stops_with_step_stage_and_rate_and_keeps_the_checkpoint(tmp_path):
    class Poisoned(Streams):
        def train_batches(self, sources, **options):
            for number, found in enumerate(super().train_batches(sources, **options), options.get("start_step", 0)):
                image = found["image"].astype(np.float32)
                yield {**found, "image": image * (np.nan if number >= 7 and options["augment"] is False else 1.0)}

    given = [
        {"data": "synthetic", "steps": 6, "learning_rate": 0.1},
        {"data": "real", "steps": 12, "learning_rate": 0.05, "augment": False, "schedule": "constant"},
    ]
    options = {"directory": tmp_path, "checkpoint_every": 4, "synthetic": examples(12, 5, "s")}
    where = r"at step 14 of 18, stage 2 \(real\) of 'mine', learning rate 0.05 "
    with pytest.raises(UserError, match=rf"the loss is nan {where}\(the checkpoint of step 12 is kept\)"):
        run(given, streams=Poisoned(), **options)
    assert sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()) == [8, 12]
    # It is whole: with a stream that is mended the run goes on from it and ends.
    mended = Streams()
    result = run(given, streams=mended, **options)
    assert mended.calls[0]["start_step"] == 6
    assert np.isfinite(result.metrics["test_loss"])
    assert jax.tree.all(jax.tree.map(lambda x: bool(np.isfinite(x).all()), result.state.params))
