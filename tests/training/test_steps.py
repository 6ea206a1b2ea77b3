"""What a training step does: losses, masks, Mixup, batch statistics, donation, and its refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from training_fixtures import CLASSES, PlainNet, TinyNet, batch

from bridgejax.errors import UserError
from bridgejax.mesh import make_mesh
from bridgejax.models.batch_norm import BatchNorm
from bridgejax.training import TrainState, make_eval_step, make_optimizer, make_train_step, mixup


def tiny(**options: object) -> TinyNet:
    return nnx.jit(lambda: TinyNet(nnx.Rngs(0), **options))()  # type: ignore[arg-type]


def sgd(**options: float) -> optax.GradientTransformation:
    return make_optimizer("sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4, **options)


def arrays(state: TrainState) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in {**state.params, **state.other}.items() if "rngs" not in name}


def test_the_loss_is_that_before_the_update_and_the_model_stays_usable():
    model = tiny(batch_norm=False)
    data = batch()
    state = TrainState.create(model, sgd(), seed=0)
    before = np.asarray(model(jnp.asarray(data["image"])))
    state, metrics = make_train_step()(state, data)
    expected = optax.softmax_cross_entropy_with_integer_labels(before, data["label"]).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], (before.argmax(-1) == data["label"]).mean(), rtol=1e-6)
    # The step donated its state; the model that it came from and copies out of it live on.
    np.testing.assert_array_equal(model(jnp.asarray(data["image"])), before)
    trained = state.model
    after = np.asarray(trained(jnp.asarray(data["image"])))
    make_train_step()(state, data)
    np.testing.assert_array_equal(trained(jnp.asarray(data["image"])), after)
    assert np.abs(after - before).max() > 1e-3


def test_training_learns_and_the_gradient_norm_is_told():
    state, step, data = TrainState.create(tiny(), sgd()), make_train_step(), batch(16)
    losses = []
    for _ in range(60):
        state, metrics = step(state, data)
        losses.append(float(metrics["loss"]))
        assert float(metrics["gradient_norm"]) > 0
    assert losses[-1] < 0.85 * losses[0]
    assert int(state.step) == 60


def test_a_users_own_module_and_any_optax_optimiser_train():
    model = PlainNet(nnx.Rngs(0))
    data = batch(6, size=4)
    state = TrainState.create(model, optax.adam(1e-2))
    step = make_train_step()
    losses = []
    for _ in range(30):
        state, metrics = step(state, data)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert "learning_rate" not in metrics


def with_shipped_batch_norm():
    model = tiny()
    model.bn = BatchNorm(6, use_running_average=False, momentum=0.9, rngs=nnx.Rngs(0))
    return model


@pytest.mark.parametrize("network", [tiny, with_shipped_batch_norm])
@pytest.mark.parametrize("options", [{}, {"mixup_alpha": 0.4}, {"batch_norm": "frozen"}, {"loss": "soft_target"}])
def test_padding_rows_count_nothing(network, options):
    data = batch(6)
    if "loss" in options:
        data["teacher_logits"] = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    padded = {key: np.concatenate([value, value[:2]]) for key, value in data.items()}
    padded["image"][6:] = np.nan
    padded["label"][6:] = 77
    if "loss" in options:
        padded["teacher_logits"][6:] = np.nan
    padded["mask"] = np.array([1] * 6 + [0] * 2, np.float32)
    plain = {**data, "mask": np.ones(6, np.float32)}
    results = []
    for found in (plain, padded):
        state = TrainState.create(network(), sgd())
        state, metrics = make_train_step(**options)(state, found)
        results.append((arrays(state), {key: float(value) for key, value in metrics.items()}))
    if "mixup_alpha" in options:  # the partners differ with the batch's size; the padding must still not show
        assert all(np.isfinite(x).all() for x in results[1][0].values())
        assert np.isfinite(list(results[1][1].values())).all()
        return
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)
    for name, value in results[0][0].items():
        np.testing.assert_allclose(results[1][0][name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("network", [tiny, with_shipped_batch_norm])
def test_a_batch_of_padding_alone_leaves_the_statistics(network):
    start = TrainState.create(network(), sgd())
    before = {name: np.array(value) for name, value in start.other.items() if name.startswith("bn.")}
    state, metrics = make_train_step()(start, {**batch(6), "mask": np.zeros(6, np.float32)})
    assert (float(metrics["loss"]), float(metrics["gradient_norm"])) == (0, 0)
    for name, value in before.items():
        np.testing.assert_array_equal(state.other[name], value)


def test_mask_weights_equal_training_on_the_rows_alone():
    data = batch(6)
    state, metrics = make_train_step()(TrainState.create(tiny(), sgd()), data)
    masked = {**data, "mask": np.ones(6, np.float32)}
    other, again = make_train_step()(TrainState.create(tiny(), sgd()), masked)
    assert float(metrics["loss"]) == pytest.approx(float(again["loss"]), rel=1e-6)
    for name, value in arrays(state).items():
        np.testing.assert_allclose(arrays(other)[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_batch_norm_modes_and_evaluation():
    data = batch()
    start = TrainState.create(tiny(), sgd())
    mean = np.asarray(start.other["bn.mean"])
    moved, _ = make_train_step()(start, data)
    assert np.abs(np.asarray(moved.other["bn.mean"]) - mean).max() > 0
    frozen, _ = make_train_step(batch_norm="frozen")(TrainState.create(tiny(), sgd()), data)
    np.testing.assert_array_equal(frozen.other["bn.mean"], mean)
    model = moved.model
    model.eval()
    metrics = make_eval_step()(moved, data)
    np.testing.assert_allclose(metrics["logits"], model(jnp.asarray(data["image"])), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["logits"], make_eval_step()(moved.model, data)["logits"], rtol=1e-6)
    assert "loss" not in make_eval_step()(moved, {"image": data["image"]})


def test_uint8_images_are_normalised_on_the_device():
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    model = tiny()
    preprocessing = model.preprocessing
    ready = ((raw / 255.0 - np.array(preprocessing.mean)) / np.array(preprocessing.std)).astype(np.float32)
    step = make_eval_step()
    np.testing.assert_allclose(
        step(model, {"image": raw})["logits"], step(model, {"image": ready})["logits"], rtol=1e-4, atol=1e-5
    )
    plain = PlainNet(nnx.Rngs(0))
    with pytest.raises(UserError, match="no `preprocessing`"):
        make_train_step()(
            TrainState.create(plain, sgd()), {"image": np.zeros((2, 4, 4, 3), np.uint8), "label": np.zeros(2, np.int32)}
        )


def test_soft_targets_follow_their_formula():
    model = tiny(batch_norm=False)
    data = batch()
    teacher = np.random.default_rng(3).normal(size=(8, CLASSES)).astype(np.float32) * 3
    logits = np.asarray(model(jnp.asarray(data["image"])), np.float64)
    log_student = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    tempered = np.exp(teacher / 2.0) / np.exp(teacher / 2.0).sum(1, keepdims=True)
    hard = -log_student[np.arange(8), data["label"]].mean()
    soft = -(tempered * log_student).sum(1).mean()
    step = make_train_step(loss="soft_target", soft_weight=0.3, temperature=2.0)
    _, metrics = step(TrainState.create(model, sgd()), {**data, "teacher_logits": teacher})
    np.testing.assert_allclose(metrics["loss"], 0.7 * hard + 0.3 * soft, rtol=1e-5)
    with pytest.raises(UserError, match="teacher_logits"):
        step(TrainState.create(model, sgd()), data)


def test_mixup_formula():
    data = batch(4)
    one_hot = np.eye(CLASSES, dtype=np.float32)[data["label"]]
    order = np.array([2, 0, 3, 1])
    images, targets = mixup(data["image"], one_hot, 0.3, order)
    np.testing.assert_allclose(images, 0.3 * data["image"] + 0.7 * data["image"][order], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(targets, 0.3 * one_hot + 0.7 * one_hot[order], rtol=1e-6)
    images, _ = mixup(data["image"], one_hot, np.array([1.0, 0.5, 0.0, 1.0]), order)
    np.testing.assert_allclose(images[2], data["image"][3], rtol=1e-6)


def test_mixup_depends_on_seed_and_step_alone_and_alpha_0_is_none():
    data = batch()

    def loss(seed: int, alpha: float, steps: int = 1) -> float:
        state = TrainState.create(tiny(), make_optimizer("sgd", learning_rate=0.0), seed=seed)
        step = make_train_step(mixup_alpha=alpha)
        for _ in range(steps):
            state, metrics = step(state, data)
        return float(metrics["loss"])

    assert loss(0, 0.5) == loss(0, 0.5)
    assert loss(0, 0.5) != loss(1, 0.5)
    assert loss(0, 0.5) != loss(0, 0.5, steps=2)
    shared = make_train_step(shares_program=True)
    _, metrics = shared(TrainState.create(tiny(), sgd()), data)
    assert float(metrics["loss"]) == pytest.approx(loss(0, 0.0), rel=1e-6)


def test_rates_smoothing_and_equal_models_share_one_program():
    data = batch(5)
    traced = []
    for rate, smoothing, decay in ((0.1, 0.0, 0.0), (0.01, 0.1, 1e-3), (0.5, 0.2, 1e-4)):
        optimizer = make_optimizer("sgd", learning_rate=rate, weight_decay=decay)
        state = TrainState.create(tiny(dropout=0.1), optimizer)
        step = make_train_step(label_smoothing=smoothing)
        before = TinyNet.traces
        for _ in range(2):
            state, metrics = step(state, data)
        traced.append(TinyNet.traces - before)
        assert float(metrics["learning_rate"]) == pytest.approx(rate)
    assert traced == [1, 0, 0]


def test_dropout_follows_the_states_seed():
    data = batch()

    def loss(seed: int) -> float:
        return float(make_train_step()(TrainState.create(tiny(dropout=0.5), sgd(), seed=seed), data)[1]["loss"])

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)


def test_frozen_parameters_get_neither_gradient_nor_decay():
    start = TrainState.create(tiny(), sgd(), trainable=("head",))
    before = arrays(start)
    after, _ = make_train_step()(start, batch())
    changed = {name for name, value in arrays(after).items() if not np.array_equal(value, before[name])}
    assert changed == {"head.kernel", "head.bias", "bn.mean", "bn.var"}
    with pytest.raises(UserError, match="matches none"):
        TrainState.create(tiny(), sgd(), trainable=("heat",))


def test_a_mesh_of_one_device_gives_the_same_numbers():
    data = batch()
    plain, first = make_train_step(mixup_alpha=0.3)(TrainState.create(tiny(), sgd()), data)
    mesh = make_mesh([("data", 1)], devices=jax.devices()[:1])
    sharded, second = make_train_step(mixup_alpha=0.3, mesh=mesh)(TrainState.create(tiny(), sgd()), data)
    assert float(first["loss"]) == pytest.approx(float(second["loss"]), rel=1e-6)
    for name, value in arrays(plain).items():
        np.testing.assert_allclose(arrays(sharded)[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("masked", [False, True])
def test_parts_of_a_batch_make_the_step_of_the_whole(masked):
    data = batch(12)
    if masked:  # parts of unlike weights, one of them of padding alone
        data["mask"] = np.array([1, 1, 0.5, 2, 1, 1, 0, 1, 0, 0, 0, 0], np.float32)
        data["image"][8:] = np.nan
    results = []
    for count in (1, 3):
        state = TrainState.create(tiny(batch_norm=False), sgd(clip_norm=0.5))
        state, metrics = make_train_step(label_smoothing=0.1, accumulate=count)(state, data)
        results.append((arrays(state), {name: float(value) for name, value in metrics.items()}))
    (whole, told), (parts, told_by_parts) = results
    assert told_by_parts == pytest.approx(told, rel=1e-5)
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_parts_of_a_batch_mix_among_themselves_and_update_statistics_in_turn():
    state, step = TrainState.create(tiny(), sgd()), make_train_step(mixup_alpha=0.4, accumulate=2)
    after, metrics = step(state, batch(8))
    assert np.isfinite(float(metrics["loss"]))
    once, _ = make_train_step(mixup_alpha=0.4)(TrainState.create(tiny(), sgd()), batch(8))
    # Running statistics move by 0.1 with each part: twice is 0.19 of the way.
    assert 1.5 < np.abs(after.other["bn.mean"]).sum() / np.abs(once.other["bn.mean"]).sum() < 2.5
    with pytest.raises(UserError, match="a batch of 7 does not split over 1 devices in 2 parts each; make it 6 or 8"):
        step(after, batch(7))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label": None}, "no 'label'"),
        ({"label": np.array([0, 1, 2, 3, 0, 1, 2, 0])}, "holds 3, but the model has 3 classes"),
        ({"label": np.array([0, 1, 2, -1, 0, 1, 2, 0])}, "holds -1"),
        ({"label": np.zeros(5, np.int32)}, "there are 8 images"),
        ({"label": np.zeros(8, np.float32)}, "whole numbers"),
        ({"image": np.zeros((8, 8, 8, 3), np.int32)}, "give uint8"),
        ({"image": [[1.0, 2.0], [1.0]]}, "one shape"),
        ({"label": np.full(8, 2**32)}, "beyond int32"),
        ({"mask": np.array([1, 1, 1, 1, 1, 1, 1, np.nan], np.float32)}, "not finite"),
        ({"mask": np.full(8, -1.0, np.float32)}, "negative"),
        ({"mask": ["yes"] * 8}, "weight of at least 0"),
    ],
)
def test_wrong_batches_get_one_sentence(change, told):
    data = {**batch(), **change}
    state = TrainState.create(tiny(), sgd())
    with pytest.raises(UserError, match=told):
        make_train_step()(state, data)


def test_a_state_that_a_step_took_is_told():
    state, step = TrainState.create(tiny(), sgd()), make_train_step()
    after, _ = step(state, batch())
    for call in (step, make_eval_step()):
        with pytest.raises(UserError, match="go on with the state that it returned"):
            call(state, batch())
    assert np.isfinite(float(make_eval_step()(after, batch())["loss"]))


def test_wrong_labels_on_a_device_make_the_loss_nan_at_the_latest():
    step, data = make_train_step(), {key: jnp.asarray(value) for key, value in batch().items()}
    state, metrics = step(TrainState.create(tiny(), sgd()), data)
    assert np.isfinite(float(metrics["loss"]))
    _, metrics = step(state, {**data, "label": data["label"].at[0].set(9)})
    assert np.isnan(float(metrics["loss"]))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: make_train_step(loss="cross_entopy"), "did you mean 'cross_entropy'"),
        (lambda: make_optimizer("adam", learning_rate=0.1), "did you mean 'adamw'"),
        (lambda: make_optimizer("sgd", learning_rate=-1.0), "learning_rate is -1.0"),
        (
            lambda: make_optimizer("sgd", learning_rate=0.1, momentum=0.0, nesterov=True),
            "needs optimizer 'sgd' with a momentum",
        ),
        (lambda: make_train_step(label_smoothing=1.5), "label_smoothing"),
        (lambda: make_train_step(batch_norm="freeze"), "batch_norm"),
        (lambda: make_train_step()({}, batch()), "TrainState.create"),
        (lambda: make_train_step(mixup_alpha="a"), "mixup_alpha is 'a'"),
        (lambda: make_train_step(temperature=None), "temperature is None"),
        (lambda: make_train_step(mesh=4), "make_mesh"),
        (lambda: make_train_step(accumulate=0), "accumulate is 0"),
        (lambda: make_eval_step()(3, batch()), "give a TrainState or a model"),
        (lambda: TrainState.create(tiny(), "sgd"), "the optimizer is 'sgd'"),
        (lambda: TrainState.create(tiny(), sgd(), seed=0.5), "seed is 0.5"),
    ],
)
def test_wrong_settings_get_one_sentence(call, told):
    with pytest.raises(UserError, match=told):
        call()
