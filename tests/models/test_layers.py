"""The fast CPU layers give XLA's and Flax's own values and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgejax.models.activations import relu6
from bridgejax.models.batch_norm import BatchNorm
from bridgejax.models.convolution import same_padding
from bridgejax.models.dense import dense
from bridgejax.models.depthwise import depthwise_conv
from bridgejax.models.layers import Conv2d

EPS = float(np.finfo(np.float32).eps)


def _close(ours: jax.Array, theirs: jax.Array, terms: int) -> None:
    """Both sum `terms` products of values of order 1 in float32, in different orders: errors stay below 8·√terms·ε·scale."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    scale = max(float(np.abs(theirs).max()), float(np.sqrt(terms)))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=8 * np.sqrt(terms) * EPS * scale)


@settings(max_examples=8, deadline=None)
@given(
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    channels=st.integers(1, 5),
    kernel=st.sampled_from([3, 5]),
    stride=st.sampled_from([1, 2, 3]),
    batch=st.integers(1, 3),
)
def test_depthwise_equals_grouped_convolution_with_its_gradients(
    height: int, width: int, channels: int, kernel: int, stride: int, batch: int
) -> None:
    rng = np.random.default_rng(height * 100 + width)
    x = jnp.asarray(rng.normal(size=(batch, height, width, channels)), jnp.float32)
    k = jnp.asarray(rng.normal(size=(kernel, kernel, 1, channels)), jnp.float32)
    pads = (same_padding(height, kernel, stride), same_padding(width, kernel, stride))

    def grouped(x: jax.Array, k: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, k, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=channels
        )

    out = jax.eval_shape(grouped, x, k).shape
    grad = jnp.asarray(rng.normal(size=out), jnp.float32)

    @jax.jit
    def both(x: jax.Array, k: jax.Array, grad: jax.Array) -> list[tuple[jax.Array, ...]]:
        results = []
        for convolve in (lambda x, k: depthwise_conv(x, k, stride, pads), grouped):
            y, pull = jax.vjp(convolve, x, k)
            results.append((y, *pull(grad)))
        return results

    taps = kernel * kernel
    for ours, theirs, terms in zip(*both(x, k, grad), (taps, taps, grad.size // channels), strict=True):
        _close(ours, theirs, terms)


def test_depthwise_row_loop_and_single_reduction_agree_at_their_border() -> None:
    rng = np.random.default_rng(0)
    k = jnp.asarray(rng.normal(size=(5, 5, 1, 2)), jnp.float32)
    for size in (4, 5):
        x = jnp.asarray(rng.normal(size=(2, size, size, 2)), jnp.float32)
        pads = (same_padding(size, 5, 1),) * 2
        gradient = jax.grad(lambda k, x=x, pads=pads: jnp.sum(depthwise_conv(x, k, 1, pads) ** 2))(k)
        padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        y = depthwise_conv(x, k, 1, pads)
        tap = jnp.sum(2 * y * padded[:, 1 : 1 + size, 3 : 3 + size], (0, 1, 2))
        _close(gradient[1, 3, 0], tap, 2 * size * size * 25)


def test_padding_is_tensorflows() -> None:
    assert same_padding(224, 3, 2) == (0, 1)
    assert same_padding(7, 5, 1) == (2, 2)
    assert same_padding(5, 3, 2) == (1, 1)


def test_pointwise_gradients_are_those_of_the_matrix_product() -> None:
    rng = np.random.default_rng(1)
    x, k = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 3, 4, 5), (5, 7)))
    loss = lambda f: jax.grad(lambda x, k: jnp.sum(jnp.sin(f(x, k))), (0, 1))(x, k)  # noqa: E731
    for ours, theirs in zip(loss(dense), loss(lambda x, k: x @ k), strict=True):
        _close(ours, theirs, 24)


def test_relu6_has_zero_slope_at_both_bends() -> None:
    x = jnp.asarray([-1.0, 0.0, 3.0, 6.0, 7.0])
    np.testing.assert_array_equal(relu6(x), [0, 0, 3, 6, 6])
    np.testing.assert_array_equal(jax.grad(lambda x: relu6(x).sum())(x), [0, 0, 1, 0, 0])


@pytest.mark.parametrize("running", [False, True])
def test_batch_norm_equals_flax_with_gradients_and_statistics(running: bool) -> None:
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(3, 2, size=(4, 5, 6, 7)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    ours, theirs = (
        kind(7, use_running_average=running, momentum=0.9, epsilon=1e-3, rngs=nnx.Rngs(0), **extra)
        for kind, extra in ((BatchNorm, {}), (nnx.BatchNorm, {"use_fast_variance": False}))
    )
    for layer in (ours, theirs):
        layer.scale[...] = jnp.linspace(0.5, 2, 7)
        layer.bias[...] = jnp.linspace(-1, 1, 7)
        layer.mean[...] = jnp.linspace(2, 4, 7)
        layer.var[...] = jnp.linspace(1, 5, 7)

    def run(layer: nnx.BatchNorm) -> tuple[jax.Array, ...]:
        graph, params, rest = nnx.split(layer, nnx.Param, ...)

        def loss(params: nnx.State, x: jax.Array) -> tuple[jax.Array, nnx.State]:
            module = nnx.merge(graph, params, rest, copy=True)
            return jnp.sum(weight * jnp.sin(module(x))), nnx.state(module, nnx.BatchStat)

        (value, stats), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
        return (value, *jax.tree.leaves(stats), *jax.tree.leaves(grads))

    value, mean, var, *gradients = run(theirs)
    if not running:  # the running variance takes the unbiased one
        n = x.size // 7
        var = 0.9 * theirs.var[...] + (var - 0.9 * theirs.var[...]) * n / (n - 1)
    for got, expected in zip(run(ours), (value, mean, var, *gradients), strict=True):
        _close(got, expected, 120)


def test_batch_norm_takes_the_statistics_of_the_rows_that_count() -> None:
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(3, 2, size=(4, 5, 6, 7)), jnp.float32)
    padded = jnp.concatenate([x, jnp.full((2, 5, 6, 7), 50.0)])
    alone, masked = (BatchNorm(7, use_running_average=False, momentum=0.9, rngs=nnx.Rngs(0)) for _ in range(2))
    mask = (jnp.arange(6) < 4).reshape(6, 1, 1, 1)
    _close(masked(padded, mask=mask)[:4], alone(x), 20)
    _close(masked.mean[...], alone.mean[...], 20)
    _close(masked.var[...], alone.var[...], 20)


@pytest.mark.parametrize(("size", "stride"), [(8, 1), (9, 2), (8, 2)])
def test_same_padding_is_that_of_xla(size: int, stride: int) -> None:
    x = jnp.asarray(np.random.default_rng(4).normal(size=(2, size, size, 4)), jnp.bfloat16)
    conv = Conv2d(4, 6, 3, stride=stride, padding="SAME", dtype=None, rngs=nnx.Rngs(0))
    y = conv(x)
    expected = jax.lax.conv_general_dilated(
        x.astype(jnp.float32),
        conv.kernel[...].astype(jnp.bfloat16).astype(jnp.float32),
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    assert y.dtype == jnp.bfloat16  # dtype=None: that of the input
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=2**-8, atol=1e-6)


def test_a_depthwise_kernels_gradient_is_summed_in_float32() -> None:
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(1.0, 0.1, size=(8, 32, 32, 2)), jnp.bfloat16)
    k = jnp.asarray(rng.normal(size=(3, 3, 1, 2)), jnp.bfloat16)
    pads = ((1, 1), (1, 1))
    found = jax.grad(lambda k: depthwise_conv(x, k, 1, pads).astype(jnp.float32).sum())(k)
    # Of the middle tap it is the sum of all pixels: in bfloat16, whose steps at 8192 are 64 wide, it would stop growing.
    np.testing.assert_allclose(found[1, 1, 0].astype(np.float32), x.astype(jnp.float32).sum((0, 1, 2)), rtol=2**-7)
