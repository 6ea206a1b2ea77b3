"""Objectives: their options, a state of their own, and the teachers of stages."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_fixtures import CLASSES, Streams, TinyNet, batch, examples, task

from bridgejax.errors import UserError
from bridgejax.models import load_classifier, save_classifier
from bridgejax.recipes import recipe_from_config
from bridgejax.training import (
    Objective,
    RunInputs,
    RunOptions,
    TrainState,
    make_eval_step,
    make_objective,
    make_optimizer,
    make_train_step,
    train_group,
    train_recipe,
)
from bridgejax.training.checkpoints import Checkpoints
from bridgejax.training.objectives import CrossEntropy, cross_entropy
from bridgejax.training.stacked import StackedStep, stack, unstack
from bridgejax.training.teachers import ClassifierTeacher, load_teachers

NOTES = {
    "identity": "",
    "stage": 0,
    "history": [],
    "losses": [],
    "seconds": {},
    "metrics": None,
    "stage_steps": [],
    "early": None,
}


@dataclasses.dataclass(frozen=True)
class Centred(Objective):
    """Cross-entropy of logits less their moving average, which is its state."""

    decay: float = 0.5

    def init(self, params):
        return {"mean": jnp.zeros(CLASSES)}

    def losses(self, outputs, batch, mix, state):
        return cross_entropy(outputs - state["mean"], jax.nn.one_hot(batch["label"], CLASSES))

    def update(self, state, outputs, batch, params):
        return {"mean": self.decay * state["mean"] + (1 - self.decay) * outputs.mean(0)}


def start(objective=None, **options):
    model = nnx.jit(lambda: TinyNet(nnx.Rngs(0), **options))()
    return TrainState.create(model, make_optimizer("sgd", 0.1), objective=objective)


def test_an_objectives_own_state_follows_its_steps():
    state, step, data = start(Centred()), make_train_step(Centred()), batch()
    means, losses = [np.zeros(CLASSES)], []
    for _ in range(3):
        outputs = np.asarray(state.model(data["image"]))  # in training mode, as the step sees it
        expected = cross_entropy(jnp.asarray(outputs) - means[-1], jax.nn.one_hot(data["label"], CLASSES)).mean()
        state, metrics = step(state, data)
        losses.append(float(metrics["loss"]))
        assert losses[-1] == pytest.approx(float(expected), rel=1e-5)
        means.append(0.5 * means[-1] + 0.5 * outputs.mean(0))
        np.testing.assert_allclose(state.objective_state["mean"], means[-1], rtol=1e-4, atol=1e-6)
    assert np.abs(means[-1]).max() > 0


def test_an_objectives_own_state_is_in_checkpoints_and_stacks(tmp_path):
    step, data = make_train_step(Centred()), batch()
    state, _ = step(start(Centred()), data)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, NOTES)
    checkpoints.wait()
    restored = checkpoints.restore(1, start(Centred()))
    checkpoints.close()
    stacked = StackedStep(step)
    stacked.prepare([state, state], [data, data])
    pair, _ = stacked(stack([state, restored]), [data, data])
    alone, _ = step(state, data)
    for other in unstack(pair, 2):
        np.testing.assert_allclose(other.objective_state["mean"], alone.objective_state["mean"], rtol=1e-5)
        np.testing.assert_allclose(other.params["head.kernel"], alone.params["head.kernel"], rtol=1e-4, atol=1e-6)


def test_a_state_without_an_objectives_own_is_stored_as_it_always_was(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, start(), NOTES)
    checkpoints.close()
    names = {path.name.partition(".")[0] for path in (tmp_path / "1" / "state").iterdir()}
    assert "objective" not in names


def test_values_of_options_share_one_program():
    data = batch(9)
    make_train_step(CrossEntropy(0.1))(start(), data)
    before = TinyNet.traces
    loss = [float(make_train_step(CrossEntropy(smoothing))(start(), data)[1]["loss"]) for smoothing in (0.0, 0.3)]
    assert TinyNet.traces == before
    assert loss[0] != loss[1]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (
            "soft_targets",
            {},
            "loss 'soft_targets' is unknown; did you mean 'soft_target'",
        ),
        ("soft_target", {"soft_weight": 2}, "soft_weight is 2; give a number from 0 to 1."),
        ("soft_target", {"temperature": 0}, "temperature is 0; give a number above 0."),
        ("cross_entropy", {"label_smoothing": "a"}, "label_smoothing is 'a'; give a number from 0 to 1."),
    ],
)
def test_wrong_options_get_one_sentence(name, options, sentence):
    with pytest.raises(UserError, match=sentence):
        make_objective(name, **options)


# -- teachers ------------------------------------------------------------------------------------------------------------------

SOFT = {"data": "real", "steps": 3, "loss": "soft_target", "soft_weight": 1.0, "learning_rate": 0.05}
OPTIONS = RunOptions(batch_size=6, eval_batch_size=5, image_size=8)


def train(stage, model, **inputs):
    recipe = recipe_from_config("mine", [stage], {"batch_norm": "frozen"})
    return train_recipe(recipe, RunInputs(model, task(), **inputs), OPTIONS, streams=Streams())


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    save_classifier(load_classifier("builtin:efficientnet_lite0", num_classes=CLASSES, seed=1), folder)
    return str(folder)


def test_a_stage_learns_from_the_classifier_that_it_names(weights):
    teacher, calls = load_classifier(weights), []
    step = make_eval_step()

    def logits(batch):
        calls.append(batch["image"].shape)
        images = jax.image.resize(batch["image"].astype(np.float32), (len(batch["image"]), 224, 224, 3), "bilinear")
        pixels = np.clip(np.round(images), 0, 255).astype(np.uint8)
        return step(teacher, {"image": pixels})["logits"]

    model = TinyNet(nnx.Rngs(0))
    assert teacher.preprocessing.size == 224
    expected = train({**SOFT, "teacher": "mine"}, model, teachers={"mine": logits})
    named = train({**SOFT, "teacher": weights}, model)
    assert calls
    assert named.history[0]["loss"] == pytest.approx(expected.history[0]["loss"], rel=1e-5)
    np.testing.assert_allclose(named.state.params["head.kernel"], expected.state.params["head.kernel"], rtol=1e-4, atol=1e-6)
    plain = train({**SOFT, "soft_weight": 0.0, "teacher": weights}, model)
    assert np.abs(plain.state.params["head.kernel"] - named.state.params["head.kernel"]).max() > 1e-4


def test_the_pretrained_teacher_is_the_model_that_the_run_starts_from():
    model = TinyNet(nnx.Rngs(0), batch_norm=False)
    stage = {**SOFT, "temperature": 1.0, "weight_decay": 0.0}
    result = train({**stage, "teacher": "pretrained"}, model)
    # At its own outputs the soft loss is as low as it gets, so its gradient is 0 at the start and nothing is to learn.
    np.testing.assert_allclose(result.state.params["head.kernel"], model.head.kernel[...], atol=1e-6)


@pytest.mark.parametrize("strategy", ["vmap", "interleave"])
def test_members_of_a_group_have_their_own_teachers(strategy):
    recipe = recipe_from_config("mine", [{**SOFT, "teacher": "pretrained"}], {"batch_norm": "frozen"})
    members = [RunInputs(TinyNet(nnx.Rngs(seed)), task(), seed, examples(30, 5, "s")) for seed in range(2)]
    together = train_group(recipe, members, OPTIONS, streams=Streams(), strategy=strategy)
    for member, result in zip(members, together, strict=True):
        alone = train_recipe(recipe, member, OPTIONS, streams=Streams())
        assert result.history[0]["loss"] == pytest.approx(alone.history[0]["loss"], rel=1e-5)


def test_another_teachers_checkpoints_are_refused(tmp_path, weights):
    model = TinyNet(nnx.Rngs(0))
    train({**SOFT, "teacher": weights}, model, directory=tmp_path)
    with pytest.raises(UserError, match="other settings or data"):
        train({**SOFT, "teacher": weights}, model, directory=tmp_path, teachers={weights: ClassifierTeacher(model)})


def test_wrong_teachers_get_one_sentence(weights):
    with pytest.raises(UserError, match="names a teacher, but its loss is 'cross_entropy'"):
        train({"data": "real", "teacher": weights}, TinyNet(nnx.Rngs(0)))
    recipe = recipe_from_config("mine", [{**SOFT, "teacher": weights}])
    with pytest.raises(UserError, match=rf"the teacher '{weights}' has 3 classes, but the task has 2"):
        load_teachers(recipe, ("a", "b"), "builtin:efficientnet_lite0")
    with pytest.raises(UserError, match="/no/such/folder"):
        train({**SOFT, "teacher": "/no/such/folder"}, TinyNet(nnx.Rngs(0)))
