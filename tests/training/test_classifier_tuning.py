"""Classifier tuning: a frozen encoder's features are made once, and the head trains on them as it would on the images."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from tuning_fixtures import CROP, NAMES, SIDE, SOFT, TUNING, CountingStreams, clip, pictures, task

from bridgejax import disk_cache
from bridgejax.errors import UserError
from bridgejax.models import load_classifier
from bridgejax.models.clip import set_classes
from bridgejax.recipes import Stage, all_recipes, recipe_from_config
from bridgejax.training import RunInputs, RunOptions, driver, feature_cache, stages, train_group, train_recipe
from bridgejax.training.feature_cache import caches_features, encoder_digest

OPTIONS = RunOptions(batch_size=8, eval_batch_size=4, image_size=SIDE, evaluations=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(autouse=True)
def forgotten():
    """What one test keeps in memory does not serve the next."""
    feature_cache._tables.clear()


@pytest.fixture
def cache(tmp_path):
    disk_cache.use(tmp_path / "cache")
    yield tmp_path / "cache"
    disk_cache.use(None)


def train(given, model, *, streams=None, options=OPTIONS, synthetic=None, seed=0, directory=None, **inputs):
    recipe = recipe_from_config("mine", given)
    synthetic = pictures(12, 5) if synthetic is None else synthetic
    given = RunInputs(model, task(), seed, synthetic, directory, **inputs)
    return train_recipe(recipe, given, options, streams=streams or CountingStreams())


def on_images(monkeypatch):
    monkeypatch.setattr(driver, "caches_features", lambda stage, model: False)


def params_of(result):
    return {name: np.asarray(value) for name, value in result.state.params.items()}


@pytest.mark.parametrize(
    "given",
    [
        [{"data": "synthetic", "steps": 6, **TUNING, **SOFT}],
        [{"data": "synthetic", "steps": 9, "early_stop": 1, "early_stop_checks": 3, **TUNING, "learning_rate": 0.05}],
        [{"data": "synthetic", "steps": 3, **TUNING, **SOFT}, {"data": "real", "steps": 3, **TUNING}],
        [
            {
                "data": "mixed",
                "steps": 5,
                "batch_size": 10,
                "synthetic_share": 0.8,
                "synthetic_loss": 0.5,
                "soft_images": "synthetic",
                **TUNING,
                **SOFT,
            }
        ],
        [{"data": "real", "steps": 2, "learning_rate": 1e-3}, {"data": "real", "steps": 3, "reset": "head", **TUNING}],
    ],
    ids=["synthetic", "ended by validation images", "phase-wise", "mix", "after the encoder trained"],
)
def test_training_on_features_is_training_on_images(given, model, monkeypatch):
    cached = train(given, model)
    on_images(monkeypatch)
    plain = train(given, model)
    moved = 0.0
    for name, value in params_of(plain).items():
        np.testing.assert_allclose(params_of(cached)[name], value, rtol=1e-4, atol=1e-5 * np.abs(value).max() + 1e-7)
        moved = max(moved, np.abs(value - np.asarray(model.head.kernel if name == "head.kernel" else 0)).max())
    assert moved > 1e-4
    assert cached.history == [pytest.approx(entry, rel=1e-4) for entry in plain.history]
    assert cached.metrics["confusion"] == plain.metrics["confusion"]


def test_each_image_is_encoded_once_and_found_again_on_disk(model, cache):
    given = [{"data": "synthetic", "steps": 20, **TUNING, **SOFT}, {"data": "real", "steps": 20, **TUNING}]
    images, streams = pictures(15, 5), CountingStreams()
    few = images.select(range(12))
    first = train(given, model, streams=streams, synthetic=few)
    assert sorted(streams.encoded) == [7, 9, 12]  # test, real, synthetic
    feature_cache._tables.clear()  # as in another process
    again = CountingStreams()
    second = train(given, model, streams=again, synthetic=few)
    assert again.encoded == []
    np.testing.assert_array_equal(first.state.params["head.kernel"], second.state.params["head.kernel"])
    # More of the same images: only the new ones are encoded.
    more = CountingStreams()
    train(given, model, streams=more, synthetic=images)
    assert more.encoded == [3]
    # Reduced first, they are others.
    reduced = CountingStreams()
    train([{"data": "synthetic", "steps": 1, "synthetic_side": 8, **TUNING}], model, streams=reduced, synthetic=few)
    assert reduced.encoded == [12]


def test_features_of_other_weights_sizes_and_crops_are_not_used(model, cache):
    given = [{"data": "real", "steps": 2, **TUNING}]
    train(given, model)

    def encoded(changed, **options):
        feature_cache._tables.clear()
        streams = CountingStreams()
        train(given, changed, streams=streams, options=dataclasses.replace(OPTIONS, **options))
        return streams.encoded

    assert encoded(model) == []
    other = nnx.clone(model)
    kernel = other.blocks[0].mlp.fc1.kernel
    kernel.set_value(kernel[...].at[0, 0].add(1e-3))
    assert sorted(encoded(other)) == [7, 9]
    normal = nnx.clone(model)
    normal.preprocessing = dataclasses.replace(normal.preprocessing, mean=(0.5, 0.5, 0.5))
    assert sorted(encoded(normal)) == [7, 9]
    activation = nnx.clone(model)
    activation.blocks[0].mlp.activation = "relu"
    assert sorted(encoded(activation)) == [7, 9]
    assert sorted(encoded(model, crop=1.0)) == [7, 9]
    assert sorted(encoded(model, image_size=40)) == [7, 9]
    assert sorted(encoded(model, dtype="bfloat16")) == [7, 9]
    head = nnx.clone(model)
    head.head.kernel.set_value(head.head.kernel[...] + 1)
    assert encoded(head) == []  # the head has no part in them
    for entry in (cache / "features").iterdir():
        entry.write_bytes(b"damaged")
    assert sorted(encoded(model)) == [7, 9]


def test_a_teacher_with_another_encoder_sees_each_image_once(model, tmp_path):
    class Teacher:
        digest = "brightness"

        def __init__(self):
            self.seen = 0

        def __call__(self, batch):
            self.seen += int(batch["mask"].sum())
            return batch["image"].astype(np.float32).mean((1, 2)) / 20

    teacher = Teacher()
    stage = {"data": "synthetic", "steps": 9, **TUNING, "loss": "soft_target", "teacher": "bright", "soft_weight": 1.0}
    result = train([stage], model, teachers={"bright": teacher})
    assert teacher.seen == 12
    hard = train([{"data": "synthetic", "steps": 9, **TUNING}], model)
    assert np.abs(params_of(result)["head.kernel"] - params_of(hard)["head.kernel"]).max() > 1e-5


@pytest.mark.parametrize("strategy", ["vmap", "interleave"])
def test_seeds_that_train_together_have_the_numbers_of_single_runs(model, strategy):
    recipe = recipe_from_config("mine", [{"data": "synthetic", "steps": 4, **TUNING, **SOFT}])
    members = [RunInputs(model, task(), seed, pictures(12, 5 + seed)) for seed in range(2)]
    for member, result in zip(members, train_group(recipe, members, OPTIONS, strategy=strategy), strict=True):
        alone = params_of(train_recipe(recipe, member, OPTIONS))
        for name, value in alone.items():
            np.testing.assert_allclose(params_of(result)[name], value, rtol=1e-4, atol=1e-6)


def test_a_stopped_run_goes_on_from_its_checkpoint(model, tmp_path):
    given = [{"data": "synthetic", "steps": 6, **TUNING, **SOFT}]
    whole = train(given, model)
    feature_cache._tables.clear()

    class Stop(Exception):
        pass

    class Stopping(CountingStreams):
        def eval_batches(self, examples, **options):
            if len(examples) == 7:  # the test part, after half of the steps
                raise Stop
            return super().eval_batches(examples, **options)

    options = dataclasses.replace(OPTIONS, checkpoint_every=2)
    with pytest.raises(Stop):
        train(given, model, streams=Stopping(), options=options, directory=tmp_path)
    resumed = train(given, model, options=options, directory=tmp_path)
    for name, value in params_of(whole).items():
        np.testing.assert_allclose(params_of(resumed)[name], value, rtol=1e-6)


def test_only_where_the_encoder_stands_still_are_features_kept(model):
    stage = Stage(trainable=("head",), batch_norm="frozen", augment=False)
    assert caches_features(stage, model)
    for change in ({"augment": True}, {"mixup_alpha": 0.2}, {"trainable": ("head", "norm")}, {"trainable": ("all",)}):
        assert not caches_features(dataclasses.replace(stage, **change), model)
    normed = load_classifier("builtin:efficientnet_lite0", num_classes=3)
    assert caches_features(stage, normed)
    assert not caches_features(dataclasses.replace(stage, batch_norm="train"), normed)
    assert encoder_digest(normed) != encoder_digest(model)


def test_a_recipe_without_stages_evaluates_the_model_as_it_is(model):
    streams = CountingStreams()
    result = train([], model, streams=streams)
    assert streams.encoded == [7]
    (images,) = ready(model, task().test, 7)
    logits = model(images)
    assert result.metrics["test_accuracy"] == pytest.approx((logits.argmax(-1) == task().test.labels).mean())
    assert result.metrics["train_steps"] == 0
    np.testing.assert_array_equal(nnx.state(result.state.model.head)["kernel"][...], model.head.kernel[...])
    recipe = recipe_from_config("mine", [])
    together = train_group(recipe, [RunInputs(model, task(), seed) for seed in range(2)], OPTIONS)
    assert [each.metrics["correct"] for each in together] == [result.metrics["correct"]] * 2


def test_real_rows_of_a_mixed_batch_follow_their_labels_alone():
    batch = {"label": np.asarray([0, 1, 2]), "source": np.asarray([0, 1, 0])}
    logits = np.asarray([[1.0, 2.0, 3.0]] * 3, np.float32)
    assert stages.soft_rows(logits, batch, Stage()) is logits
    probabilities = jax.nn.softmax(stages.soft_rows(logits, batch, Stage(soft_images="synthetic")) / 7.0)
    np.testing.assert_array_equal(probabilities[::2], np.eye(3)[[0, 2]])
    np.testing.assert_allclose(probabilities[1], jax.nn.softmax(logits[1] / 7.0), rtol=1e-6)


def tip_adapter_logits(model, keys, images, weight, sharpness):
    """As Zhang et al. 2022 write it: α·φ(f·Fᵀ)·L + f·Wᵀ with φ(x) = exp(-β(1 - x))."""
    features, shots = np.asarray(model.features(images), np.float64), task().train
    votes = np.exp(-sharpness * (1 - features @ np.asarray(keys, np.float64).T)) @ np.eye(len(NAMES))[shots.labels]
    return weight * votes + features @ np.asarray(model.head.kernel[...], np.float64) + np.asarray(model.head.bias[...])


def test_tip_adapter(model, tmp_path):
    stage = {"data": "real", "head": "cache", "steps": 1, **TUNING, "learning_rate": 0.0, "cache_weight": 3.0}
    result = train([stage], model)
    made = result.state.model
    (shots,) = ready(model, task().train, 9)
    (images,) = ready(model, task().test, 7)
    expected = tip_adapter_logits(model, model.features(shots), images, 3.0, 5.5)
    np.testing.assert_allclose(made(images), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(made(images) - np.asarray(model(images))).max() > 0.1
    assert result.metrics["test_accuracy"] == pytest.approx((expected.argmax(-1) == task().test.labels).mean())
    # Its keys trained, resumed half-way.
    stage = {**stage, "steps": 6, "trainable": [r"^head\.keys"], "learning_rate": 0.01}
    options = dataclasses.replace(OPTIONS, checkpoint_every=3, checkpoint_seconds=0.0)
    whole = train([stage], model, options=options, directory=tmp_path)
    assert set(whole.state.params) == {"head.keys"}
    keys = np.asarray(whole.state.params["head.keys"])
    assert np.abs(keys - np.asarray(model.features(shots))).max() > 1e-3
    np.testing.assert_allclose(
        whole.state.model(images), tip_adapter_logits(model, keys, images, 3.0, 5.5), rtol=1e-4, atol=1e-5
    )
    again = train([stage], model, options=options, directory=tmp_path)  # read from the checkpoint of its end
    np.testing.assert_array_equal(np.asarray(again.state.params["head.keys"]), keys)


def ready(model, examples, size):
    """Yields images as a model takes them."""
    for batch in CountingStreams().eval_batches(examples, batch_size=size, image_size=SIDE, crop=CROP):
        yield ((batch["image"] / 255.0 - model.preprocessing.mean) / np.asarray(model.preprocessing.std)).astype(np.float32)


def test_the_recipes_of_the_library_run_on_features(model):
    training = {"base_steps": 2, "learning_rate": 0.002}
    for name in ("tuned_synthetic", "tuned_synthetic_hard", "linear_probe", "tuned_real", "tuned_mix", "tip_adapter_f"):
        recipe = recipe_from_config(name, all_recipes(), training)
        assert all(caches_features(stage, model) for stage in recipe.stages)
        result = train_recipe(recipe, RunInputs(model, task(), 0, pictures(12, 5)), OPTIONS)
        assert result.metrics["train_steps"] == recipe.steps
        if name == "tip_adapter_f":
            continue
        kernel = params_of(result)["head.kernel"]
        near = np.abs(kernel - np.asarray(model.head.kernel[...])).max() < 0.02
        assert near == (name != "linear_probe")  # two steps from the text's head, or from a new one


def test_learned_prompts(model, tmp_path):
    stage = {**TUNING, "data": "real", "head": "prompt", "trainable": [r"^head\.context"], "context_tokens": 4, "steps": 12}
    options = dataclasses.replace(OPTIONS, batch_size=9, checkpoint_every=5, checkpoint_seconds=0.0)
    result = train([{**stage, "learning_rate": 0.05}], model, options=options, directory=tmp_path)
    assert set(result.state.params) == {"head.context"}
    assert result.state.params["head.context"].shape == (4, model.texts.network.width)
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert losses[-1] < losses[0]
    start = train([{**stage, "learning_rate": 0.0}], model)
    text = nnx.state(start.state.model.head.text)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(result.state.model.head.text), text)  # stands still
    # With the embeddings of a text as the context, the head is that of the text.
    made = result.state.model
    spoken = clip(model.texts.folder)
    words = model.texts.tokens(["aaaa"])[0, 1:5]
    made.head.context.set_value(model.texts.network.embeddings.token_embedding.embedding[...][words])
    rows = model.texts.tokens([f"{name}." for name in NAMES])
    np.testing.assert_array_equal(np.asarray(made.head.tokens[...])[:, 5:], rows[:, 1:-4])
    images = next(ready(model, task().test, 7))
    set_classes(spoken, NAMES, "aaaa {}.")
    np.testing.assert_allclose(made(images), spoken(images), rtol=2e-4, atol=2e-4)


def test_prompts_that_cannot_be_learned_get_one_sentence(model):
    stage = {**TUNING, "data": "real", "head": "prompt", "trainable": [r"^head\.context"], "steps": 1}
    with pytest.raises(UserError, match="does not fit behind a context of 75 tokens; lower context_tokens"):
        train([{**stage, "context_tokens": 75}], model)
    normed = load_classifier("builtin:efficientnet_lite0", num_classes=3)
    with pytest.raises(UserError, match=r"this efficientnet.* has not; give a CLIP folder"):
        train([stage], normed)
