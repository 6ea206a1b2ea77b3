"""Momentum contrast: its numbers, the same on any number of devices, and as a stage of a recipe."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_fixtures import Streams, TinyNet, examples, printed_by, task, tiny_resnet

from bridgejax.errors import UserError
from bridgejax.models.projection_head import ProjectionHead
from bridgejax.recipes import recipe_from_config
from bridgejax.training import (
    RunInputs,
    RunOptions,
    TrainState,
    make_objective,
    make_optimizer,
    make_train_step,
    train_group,
    train_recipe,
)


def test_devices_do_not_change_the_loss():
    found = {devices: np.array(losses) for devices, losses in printed_by("moco_program.py", 8).items()}
    one = found["1"]
    assert len(one) == 20
    assert one.std() > 0.01
    for devices in ("2", "4", "8"):
        assert np.abs(found[devices] / one - 1).max() < 1e-4, devices


def projected(rngs, batch_norm=False):
    model = TinyNet(rngs, batch_norm=batch_norm)
    model.head = ProjectionHead(6, 4, rngs=rngs)
    return model


def views(rows, number):
    rng = np.random.default_rng(number)
    image = rng.normal(size=(rows, 8, 8, 3)).astype(np.float32)
    return {"image": image, "view": image + 0.3 * rng.normal(size=image.shape).astype(np.float32)}


@pytest.mark.parity
def test_loss_queue_and_key_network_are_those_of_a_pytorch_computation():
    import torch

    objective = make_objective("moco", queue_size=12, key_momentum=0.7, contrast_temperature=0.3, norm_groups=2, recolour=0.0)
    state = TrainState.create(projected(nnx.Rngs(0)), make_optimizer("sgd", 0.1), objective=objective)
    step = make_train_step(objective)

    def network(values):
        def tensor(name):
            return torch.tensor(np.asarray(values[name]), requires_grad=True)

        own = {name: tensor(name) for name in values}

        def call(images):
            x = torch.tensor(images).permute(0, 3, 1, 2)
            x = torch.conv2d(x, own["conv.kernel"].permute(3, 2, 0, 1), own["conv.bias"], padding=1).relu().mean((2, 3))
            x = (x @ own["head.hidden.kernel"] + own["head.hidden.bias"]).relu()
            return torch.nn.functional.normalize(x @ own["head.out.kernel"] + own["head.out.bias"])

        return own, call

    queries, query = network(state.params)
    keys, key = network(state.params)
    queue, place = torch.tensor(np.asarray(state.objective_state["queue"])).T.clone(), 0
    optimizer = torch.optim.SGD(queries.values(), 0.1, momentum=0.9)
    for number in range(5):
        data = views(4, number)
        with torch.no_grad():
            for name, value in keys.items():
                value.mul_(0.7).add_(queries[name], alpha=0.3)
            k = key(data["view"])
        q = query(data["image"])
        logits = torch.cat([(q * k).sum(-1, keepdim=True), q @ queue], 1) / 0.3
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue[:, place : place + 4] = k.T
        place = (place + 4) % 12
        state, metrics = step(state, data)
        assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    for name, value in queries.items():
        np.testing.assert_allclose(state.params[name], value.detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.objective_state["queue"], queue.T.numpy(), rtol=1e-4, atol=1e-6)


def test_an_image_and_its_other_view_do_not_share_their_batch_statistics():
    model = projected(nnx.Rngs(0), batch_norm=True)
    objective = make_objective("moco", queue_size=16, norm_groups=4, recolour=0.0)
    state = TrainState.create(model, make_optimizer("sgd", 0.0), objective=objective)
    image = views(16, 0)["image"]
    # With one part all rows share them, and an image seen twice gives one vector twice: the key is the query.
    whole = make_objective("moco", queue_size=16, norm_groups=1, recolour=0.0)
    alike = [
        float(make_train_step(each)(start, {"image": image, "view": image})[1]["loss"])
        for each, start in ((whole, TrainState.create(model, make_optimizer("sgd", 0.0), objective=whole)), (objective, state))
    ]
    assert alike[1] > alike[0]


PRETRAIN = {"data": "synthetic", "loss": "moco", "queue_size": 24, "norm_groups": 2, "projection_width": 8, "steps": 4}
PRETRAIN |= {"batch_norm": "train", "reset": "all", "key_momentum": 0.9}
TRANSFER = {"data": "real", "reset": "head", "batch_norm": "train", "steps": 2}
OPTIONS = RunOptions(batch_size=6, eval_batch_size=5, image_size=8, eval_every=1)


class TwoViews(Streams):
    """`Streams` whose second view is mirrored."""

    def train_batches(self, sources, *, view=0, **settings):
        for batch in super().train_batches(sources, **settings):
            yield {**batch, "image": batch["image"][:, :, ::-1] if view else batch["image"]}


def train(stages, model, directory=None, runs=1, synthetic=None):
    recipe = recipe_from_config("mine", stages, {"learning_rate": 0.05})
    inputs = [RunInputs(model, task(), seed, synthetic or examples(24, 5, "s"), directory) for seed in range(runs)]
    if runs == 1:
        return train_recipe(recipe, inputs[0], OPTIONS, streams=TwoViews())
    return train_group(recipe, inputs, OPTIONS, streams=TwoViews(), strategy="vmap")


@pytest.fixture(scope="module")
def model():
    return tiny_resnet()


def test_a_stage_pretrains_and_the_next_one_classifies(model):
    result = train([PRETRAIN, TRANSFER], model)
    evaluated = [entry["step"] for entry in result.history if "test_accuracy" in entry]
    assert evaluated == [5, 6]  # without classes there is nothing to evaluate
    head = result.state.model.head
    assert isinstance(head, nnx.Linear)
    assert head.out_features == 3


def test_a_stopped_stage_goes_on_with_its_queue(model, tmp_path):
    long = [{**PRETRAIN, "schedule": "constant"}, TRANSFER]
    whole = train(long, model)

    class Stop(Exception):
        pass

    def stop(step):
        if step == 3:
            raise Stop

    recipe = recipe_from_config("mine", long, {"learning_rate": 0.05})
    inputs = RunInputs(model, task(), 0, examples(24, 5, "s"), tmp_path)
    options = RunOptions(batch_size=6, eval_batch_size=5, image_size=8, eval_every=1, checkpoint_every=2)
    with pytest.raises(Stop):
        train_recipe(recipe, inputs, options, streams=TwoViews(stop))
    result = train_recipe(recipe, inputs, options, streams=TwoViews())
    assert jax.tree.all(jax.tree.map(jnp.array_equal, result.state.params, whole.state.params))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"queue_size": 48}, "has a queue of 48 keys, more than its 24 images"),
        ({"queue_size": 20}, "batch size is 6, which does not divide queue_size, 20"),
        ({"norm_groups": 4}, "norm_groups is 4, which does not divide the batch of 6"),
        ({"mixup_alpha": 0.2}, r"mixup_alpha is 0.2, which does not go with loss='moco'"),
        ({"trainable": ("conv1",)}, "let trainable name the head too"),
    ],
)
def test_what_does_not_fit_is_named(model, change, sentence):
    with pytest.raises(UserError, match=sentence):
        train([{**PRETRAIN, **change}, TRANSFER], model)


def test_classes_must_follow(model):
    with pytest.raises(UserError, match="let a stage with reset='head' follow"):
        train([PRETRAIN], model)
