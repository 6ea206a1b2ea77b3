"""EfficientNet-Lite0 against the PyTorch original, on the published weights."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bridgejax.models import load_classifier
from bridgejax.models.registry import ASSETS, EFFICIENTNET_LITE_RULES
from bridgejax.models.weights import export, read_tensors

SIZE = 64


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (4, SIZE, SIZE, 3)).astype(np.float32)


def _original() -> Any:
    pytest.importorskip("efficientnet_lite_pytorch")
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    # The original pads for the size it is built with. Its two random regularisers are off here.
    model = EfficientNet.from_name("efficientnet-lite0", image_size=SIZE, drop_connect_rate=0.0, dropout_rate=0.0)
    tensors = read_tensors(ASSETS / "efficientnet_lite0" / "model.safetensors")
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in tensors.items()})
    return model.eval()


def _nchw(images: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _batch_statistics_only(model: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.BatchStat))]


def _rounding(single: np.ndarray, exact: np.ndarray) -> float:
    """Float32's own error here, as PyTorch shows it; ours sums in another order, so four times that is allowed."""
    return 4 * float(np.abs(single - exact).max()) + 1e-7 * float(np.abs(exact).max())


@pytest.mark.parity
def test_evaluation_logits_match_the_original(images: np.ndarray) -> None:
    import torch

    original = _original()
    with torch.no_grad():
        single = original(_nchw(images)).numpy()
        exact = copy.deepcopy(original).double()(_nchw(images).double()).numpy()
    model = load_classifier("builtin:efficientnet_lite0")
    ours = np.asarray(nnx.jit(lambda m, x: m(x))(model, jnp.asarray(images)))
    assert np.abs(ours - exact).max() <= _rounding(single, exact)
    np.testing.assert_array_equal(ours.argmax(-1), exact.argmax(-1))


@pytest.mark.parity
@pytest.mark.parametrize("mode", ["train", "frozen"])
def test_gradients_match_the_original(images: np.ndarray, mode: str) -> None:
    import torch

    labels = np.arange(len(images)) * 7
    results = {}
    for dtype in (torch.float32, torch.float64):
        original = _original().to(dtype)
        original.train(mode == "train")
        loss = torch.nn.functional.cross_entropy(original(_nchw(images).to(dtype)), torch.from_numpy(labels))
        loss.backward()
        gradients = {name: parameter.grad.double().numpy() for name, parameter in original.named_parameters()}
        means = {name: value.double().numpy() for name, value in original.state_dict().items() if "running_mean" in name}
        results[dtype] = (float(loss), gradients, means)
    model = load_classifier("builtin:efficientnet_lite0")
    model.train() if mode == "train" else model.eval()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def run(params: nnx.State) -> Any:
        def loss(params: nnx.State) -> Any:
            module = nnx.merge(graph, params, rest, copy=True)
            log_probabilities = jax.nn.log_softmax(module(jnp.asarray(images)))
            return -log_probabilities[jnp.arange(len(labels)), labels].mean(), nnx.state(module, nnx.BatchStat)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, statistics), gradient_state = run(params)
    gradients = export(nnx.merge(graph, gradient_state, statistics), EFFICIENTNET_LITE_RULES)
    loss32, gradients32, means32 = results[torch.float32]
    loss64, gradients64, means64 = results[torch.float64]
    assert abs(float(value) - loss64) <= 4 * abs(loss32 - loss64) + 1e-5 * loss64
    # A pixel that sits on a bend of ReLU6 falls on either side of it by rounding, so single elements may differ: the
    # length of the error of each tensor is compared, with float32's own length of error in PyTorch.
    for name, exact in gradients64.items():
        own = np.linalg.norm(gradients32[name] - exact) / np.linalg.norm(exact)
        ours = np.linalg.norm(gradients[name] - exact) / np.linalg.norm(exact)
        assert ours <= 8 * own + 2e-4, (name, ours, own)
    for name, exact in means64.items():
        error = np.abs(gradients[name] - exact).max()
        assert error <= _rounding(means32[name], exact) + 1e-6 * np.abs(exact).max(), name


def test_sizes_that_are_not_multiples_of_32_work() -> None:
    model = load_classifier("builtin:efficientnet_lite0")
    shape = jax.eval_shape(lambda x: model(x), jax.ShapeDtypeStruct((2, 75, 101, 3), jnp.float32))
    assert (shape.shape, shape.dtype) == ((2, 1000), jnp.float32)


def test_frozen_statistics_stay_and_training_moves_them() -> None:
    model = load_classifier("builtin:efficientnet_lite0", num_classes=3)
    images = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (2, 32, 32, 3)), jnp.float32)
    before = _batch_statistics_only(model)
    run = nnx.jit(lambda m, x: m(x))
    model.eval()
    run(model, images)
    assert all((a == b).all() for a, b in zip(before, _batch_statistics_only(model), strict=True))
    model.train()
    run(model, images)
    assert all((a != b).any() for a, b in zip(before, _batch_statistics_only(model), strict=True))


def test_features_are_what_the_head_sees() -> None:
    model = load_classifier("builtin:efficientnet_lite0", num_classes=5)
    images = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (2, 32, 32, 3)), jnp.float32)
    features, logits = nnx.jit(lambda m, x: (m.features(x), m(x)))(model, images)
    assert features.shape == (2, 1280)
    assert float(features.min()) >= 0
    np.testing.assert_allclose(model.head(features), logits, rtol=1e-5, atol=1e-5)
