"""Training in bfloat16 and with recomputed blocks: what stays float32, the same numbers, and less memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_fixtures import CLASSES, PlainNet, TinyNet, batch

from bridgejax.errors import UserError
from bridgejax.mesh import make_mesh
from bridgejax.models import Preprocessing, reinitialise
from bridgejax.models.batch_norm import BatchNorm
from bridgejax.models.efficientnet_lite import InvertedResidual
from bridgejax.models.layers import Conv2d
from bridgejax.models.resnet import ResidualBlock, ResNet, ResNetConfig
from bridgejax.models.vit import VisionTransformer, ViTConfig
from bridgejax.training import TrainState, make_eval_step, make_optimizer, make_train_step
from bridgejax.training.stacked import StackedStep, stack, unstack

PREPROCESSING = Preprocessing(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1.0)


def resnet(blocks: int = 2) -> ResNet:
    config = ResNetConfig("timm", "small", (blocks, blocks), (8, 16), 8, False)
    return ResNet(config, CLASSES, PREPROCESSING, rngs=nnx.Rngs(0))


def vit(layers: int = 2) -> VisionTransformer:
    config = ViTConfig("timm", "small", 16, 4, 32, layers, 4, 64)
    model = VisionTransformer(config, CLASSES, PREPROCESSING, rngs=nnx.Rngs(0))
    reinitialise(model, jax.random.key(0))
    return model


class Lite(nnx.Module):
    """The layers of EfficientNet-Lite, and of each kind of block one."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.stem = Conv2d(3, 8, 3, stride=2, padding="SAME", dtype=None, rngs=rngs)
        self.blocks = nnx.List([InvertedResidual(8, 8, 3, 1, 2, rngs=rngs), InvertedResidual(8, 12, 5, 2, 2, rngs=rngs)])
        self.head = nnx.Linear(12, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class Dropped(nnx.Module):
    """A user's block: flax's own layers, dropout among them."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear, self.bn = nnx.Linear(8, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, x: jax.Array, *, scale: float = 1.0) -> jax.Array:
        return x + scale * self.dropout(nnx.relu(self.bn(self.linear(x))))


class Users(nnx.Module):
    """A user's network with `blocks` that are called with a keyword."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 8, rngs=rngs)
        self.blocks = nnx.List([Dropped(rngs), Dropped(rngs)])
        self.last = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.first(images.mean((1, 2)))
        for block in self.blocks:
            x = block(x, scale=0.5)
        return self.last(x)


NETWORKS = {"resnet": resnet, "lite": Lite, "vit": vit, "users": Users}


def state_of(model: nnx.Module, **options: object) -> TrainState:
    optimizer = make_optimizer("sgd", learning_rate=0.05, momentum=0.9, weight_decay=5e-4)
    return TrainState.create(model, optimizer, seed=0, **options)  # type: ignore[arg-type]


def arrays(state: TrainState) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in {**state.params, **state.other}.items() if "rngs" not in name}


def dtypes(state: TrainState) -> set[str]:
    leaves = jax.tree.leaves((arrays(state), state.opt_state))
    return {str(leaf.dtype) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_trains_with_float32_parameters_moments_and_statistics(name):
    data = batch(16, size=16)
    found, losses = {}, []
    for dtype in ("float32", "bfloat16"):
        state, step = state_of(NETWORKS[name]()), make_train_step(dtype=dtype)
        state, metrics = step(state, data)
        found[dtype] = (float(metrics["loss"]), arrays(state))
        for _ in range(15 if dtype == "bfloat16" else 0):
            state, metrics = step(state, data)
            losses.append(float(metrics["loss"]))
        assert dtypes(state) == {"float32"}
        assert metrics["loss"].dtype == jnp.float32
    assert min(losses[-3:]) < 0.9 * found["bfloat16"][0]
    # Some ten roundings one after another, each by at most 2⁻⁹ of a value.
    assert found["bfloat16"][0] == pytest.approx(found["float32"][0], rel=10 * 2**-9)
    assert found["bfloat16"][0] != found["float32"][0]
    for key, value in found["float32"][1].items():
        if key.endswith((".mean", ".var")):
            np.testing.assert_allclose(
                found["bfloat16"][1][key], value, rtol=0.02, atol=0.02 * np.abs(value).max(), err_msg=key
            )


def test_matrix_products_run_in_bfloat16_but_for_the_head():
    state, data = state_of(vit()), batch(4, size=16)
    step = make_train_step(dtype="bfloat16")
    text = step.lower(state, data).as_text()
    products = [line.split(" : ")[-1].split("->")[0] for line in text.splitlines() if "stablehlo.dot_general" in line]
    full = [operands for operands in products if "bf16" not in operands]
    assert len(products) > 20
    # The head's product and its two derivatives; attention's weights enter its derivatives in float32.
    assert sum(f"x{CLASSES}xf32" in operands for operands in full) == 3
    assert make_eval_step(dtype="bfloat16")(vit(), data)["logits"].dtype == jnp.float32


@pytest.mark.parametrize("name", ["resnet", "users"])
def test_bfloat16_keeps_frozen_parameters_and_evaluates_as_float32_does(name):
    data = batch(8, size=16)
    model = NETWORKS[name]()
    start = state_of(model, trainable=(r"^(head|last)\.",))
    before = arrays(start)
    after, _ = make_train_step(dtype=jnp.bfloat16, batch_norm="frozen")(start, data)
    changed = {key for key, value in arrays(after).items() if not np.array_equal(value, before[key])}
    assert {key.partition(".")[0] for key in changed} <= {"head", "last"}
    plain, lowered = (make_eval_step(dtype=dtype)(model, data)["logits"] for dtype in (None, "bfloat16"))
    np.testing.assert_allclose(lowered, plain, atol=0.03 * float(np.abs(plain).max()))
    assert np.abs(lowered - plain).max() > 0


@pytest.mark.parametrize("shipped", [True, False])
def test_padding_rows_count_nothing_in_bfloat16(shipped):
    def network() -> TinyNet:
        model = TinyNet(nnx.Rngs(0))
        if shipped:
            model.bn = BatchNorm(6, use_running_average=False, momentum=0.9, rngs=nnx.Rngs(0))
        return model

    data = batch(6)
    padded = {key: np.concatenate([value, value[:2]]) for key, value in data.items()}
    padded["image"][6:] = np.nan
    masks = (np.ones(6, np.float32), np.array([1] * 6 + [0] * 2, np.float32))
    step = make_train_step(dtype="bfloat16")
    (plain, first), (other, second) = (
        step(state_of(network()), {**found, "mask": mask}) for found, mask in zip((data, padded), masks, strict=True)
    )
    assert float(first["loss"]) == pytest.approx(float(second["loss"]), rel=1e-5)
    for key, value in arrays(plain).items():
        np.testing.assert_allclose(arrays(other)[key], value, rtol=0.01, atol=1e-3, err_msg=key)


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
@pytest.mark.parametrize("name", NETWORKS)
def test_recomputed_blocks_give_the_same_numbers(name, batch_norm):
    data = {**batch(8, size=16), "mask": np.array([1] * 7 + [0], np.float32)}
    results = []
    for remat in (False, True):
        state, metrics = make_train_step(remat=remat, batch_norm=batch_norm)(state_of(NETWORKS[name]()), data)
        results.append((arrays(state), metrics))
    for key in ("loss", "gradient_norm"):
        assert float(results[1][1][key]) == pytest.approx(float(results[0][1][key]), rel=1e-5)
    for key, value in results[0][0].items():
        np.testing.assert_allclose(results[1][0][key], value, rtol=1e-5, atol=1e-6, err_msg=key)
    blocks = {"resnet": ResidualBlock, "lite": InvertedResidual, "users": Dropped}
    if name in blocks:
        assert type(state.model.blocks[0]) is blocks[name]


@pytest.mark.parametrize(("network", "share"), [(lambda: resnet(4), 0.8), (lambda: vit(4), 0.5)])
def test_recomputed_blocks_take_less_memory(network, share):
    data, taken = batch(64, size=16), {}
    for remat in (False, True):
        state, step = state_of(network()), make_train_step(remat=remat)
        taken[remat] = step.lower(state, data).compile().memory_analysis().temp_size_in_bytes
    assert taken[True] < share * taken[False]


def test_both_options_on_a_mesh_and_stacked():
    data, options = batch(8, size=16), {"dtype": "bfloat16", "remat": True}
    plain, first = make_train_step(**options)(state_of(resnet()), data)
    mesh = make_mesh([("data", 1)], devices=jax.devices()[:1])
    sharded, second = make_train_step(mesh=mesh, **options)(state_of(resnet()), data)
    assert float(first["loss"]) == pytest.approx(float(second["loss"]), rel=1e-3)
    step, states = StackedStep(make_train_step(**options)), [state_of(resnet()), state_of(resnet())]
    step.prepare(states, [data, data])
    stacked, third = step(stack(states), [data, data])
    np.testing.assert_allclose(third["loss"], float(first["loss"]), rtol=1e-2)
    for state in (sharded, *unstack(stacked, 2)):
        assert dtypes(state) == {"float32"}
        for key, value in arrays(plain).items():
            if key.endswith((".mean", ".var")):
                np.testing.assert_allclose(arrays(state)[key], value, rtol=0.02, atol=0.02, err_msg=key)


def test_wrong_options_get_one_sentence():
    for dtype in ("float16", "bfloat", 16, "int8"):
        with pytest.raises(UserError, match=r"training\.dtype is .*; .*'float32' or 'bfloat16'"):
            make_train_step(dtype=dtype)
    with pytest.raises(UserError, match=r"training\.dtype is 'half'"):
        make_eval_step(dtype="half")
    with pytest.raises(UserError, match="remat is 1"):
        make_train_step(remat=1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="PlainNet has no `blocks`"):
        make_train_step(remat=True)(state_of(PlainNet(nnx.Rngs(0))), batch(4, size=4))
