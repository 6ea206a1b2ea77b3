"""A dense convolution on a CPU, whichever way it goes, gives XLA's own values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from bridgejax.models import unfolded, winograd
from bridgejax.models.convolution import Ways, conv2d, ways

EPS = float(np.finfo(np.float32).eps)
Pads = tuple[tuple[int, int], tuple[int, int]]
Convolution = Callable[[jax.Array, jax.Array], jax.Array]


def _xla(stride: int, pads: Pads) -> Convolution:
    return lambda x, k: lax.conv_general_dilated(
        x, k, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST
    )


def _both(convolve: Convolution, x: jax.Array, k: jax.Array, grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    @jax.jit
    def run(x: jax.Array, k: jax.Array, grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        y, pull = jax.vjp(convolve, x, k)
        return (y, *pull(grad))

    return run(x, k, grad)


def _close(ours: jax.Array, theirs: jax.Array, terms: int) -> None:
    """Both sum `terms` products of values of order 1 in float32, in different orders: errors stay below 8·√terms·ε·scale."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    scale = max(float(jnp.abs(theirs).max()), float(np.sqrt(terms)))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=8 * np.sqrt(terms) * EPS * scale)


def _check(convolve: Convolution, shape: tuple[int, ...], kernel: tuple[int, ...], stride: int, pads: Pads) -> None:
    rng = np.random.default_rng(sum(shape) + sum(kernel))
    x, k = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in (shape, kernel))
    reference = _xla(stride, pads)
    out = jax.eval_shape(reference, x, k).shape
    grad = jnp.asarray(rng.normal(size=out), jnp.float32)
    taps = kernel[0] * kernel[1]
    terms = (taps * kernel[2], taps * kernel[3], int(np.prod(out[:3])))
    for ours, theirs, count in zip(_both(convolve, x, k, grad), _both(reference, x, k, grad), terms, strict=True):
        _close(ours, theirs, count)


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 3, 40]),
    features=st.sampled_from([1, 5, 33]),
    size=st.sampled_from([1, 2, 3, 5]),
    stride=st.sampled_from([1, 2, 3]),
    pads=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
)
def test_any_convolution_equals_xlas(
    height: int, width: int, channels: int, features: int, size: int, stride: int, pads: Pads
) -> None:
    if height + sum(pads[0]) < size or width + sum(pads[1]) < size:
        return
    shape, kernel = (2, height, width, channels), (size, size, channels, features)
    _check(lambda x, k: conv2d(x, k, stride, pads), shape, kernel, stride, pads)
    _check(lambda x, k: _always_unfolded(x, k, stride, pads), shape, kernel, stride, pads)


@settings(max_examples=8, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 4),
    features=st.integers(1, 4),
    pads=st.tuples(*[st.tuples(st.integers(1, 2), st.integers(1, 2))] * 2),
)
def test_winograds_convolution_of_any_size_equals_xlas(
    height: int, width: int, channels: int, features: int, pads: Pads
) -> None:
    shape, kernel = (2, height, width, channels), (3, 3, channels, features)
    _check(lambda x, k: _always_winograd(x, k, pads), shape, kernel, 1, pads)


PLAIN = ((1, 1), (1, 1))
# Each rule of `ways`, at a size that it is made for.
RULES = [
    ((8, 8, 8, 64), (3, 3, 64, 64), 1, PLAIN, Ways("winograd", "winograd", "xla")),
    ((6, 6, 7, 128), (3, 3, 128, 128), 1, PLAIN, Ways("winograd", "winograd", "winograd")),
    ((2, 8, 8, 64), (3, 3, 64, 64), 1, PLAIN, Ways("xla", "xla", "xla")),
    ((8, 8, 8, 4), (3, 3, 4, 64), 1, PLAIN, Ways("xla", "xla", "xla")),
    ((2, 9, 9, 8), (3, 3, 8, 16), 2, ((0, 1), (0, 1)), Ways("xla", "unfolded", "xla")),
    ((64, 2, 2, 64), (3, 3, 64, 64), 1, PLAIN, Ways("unfolded", "unfolded", "xla")),
    ((2, 2, 2, 4), (1, 1, 4, 8), 1, ((1, 1), (1, 1)), Ways("xla", "xla", "unfolded")),
    ((2, 32, 32, 3), (7, 7, 3, 8), 2, ((3, 3), (3, 3)), Ways("xla", "unfolded", "xla")),
]


@pytest.mark.parametrize(("shape", "kernel", "stride", "pads", "expected"), RULES)
def test_every_rule_holds_xlas_numbers(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: int, pads: Pads, expected: Ways
) -> None:
    assert ways(shape, kernel, stride, pads) == expected
    _check(lambda x, k: conv2d(x, k, stride, pads), shape, kernel, stride, pads)


def test_strips_give_what_whole_images_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "STRIP_BYTES", 1)
    _check(lambda x, k: _always_winograd(x, k, PLAIN), (2, 12, 7, 3), (3, 3, 3, 5), 1, PLAIN)


def test_half_precision_is_rounded_once() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 8, 8, 64)), jnp.bfloat16)
    k = jnp.asarray(rng.normal(size=(3, 3, 64, 64)), jnp.bfloat16)
    ours = conv2d(x, k, 1, PLAIN)
    exact = _xla(1, PLAIN)(x.astype(jnp.float32), k.astype(jnp.float32))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), exact, rtol=2**-8, atol=1e-3)


def test_kernels_of_several_seeds_go_at_once() -> None:
    rng = np.random.default_rng(1)
    x, k = (jnp.asarray(rng.normal(size=(3, *size)), jnp.float32) for size in ((8, 6, 6, 32), (3, 3, 32, 32)))
    together = jax.jit(jax.vmap(lambda x, k: conv2d(x, k, 1, PLAIN)))(x, k)
    for one, images, kernel in zip(together, x, k, strict=True):
        _close(one, _xla(1, PLAIN)(images, kernel), 9 * 32)


def _always_winograd(x: jax.Array, k: jax.Array, pads: Pads) -> jax.Array:
    @jax.custom_vjp
    def convolve(x: jax.Array, k: jax.Array) -> jax.Array:
        return winograd.forward(x, k, pads)

    convolve.defvjp(
        lambda x, k: (convolve(x, k), (x, k)),
        lambda kept, g: (winograd.input_gradient(g, kept[1], pads), winograd.kernel_gradient(kept[0], g, pads)),
    )
    return convolve(x, k)


def _always_unfolded(x: jax.Array, k: jax.Array, stride: int, pads: Pads) -> jax.Array:
    @jax.custom_vjp
    def convolve(x: jax.Array, k: jax.Array) -> jax.Array:
        return unfolded.forward(x, k, stride, pads)

    convolve.defvjp(
        lambda x, k: (convolve(x, k), (x, k)),
        lambda kept, g: (
            unfolded.input_gradient(g, kept[1], kept[0].shape, stride, pads),
            unfolded.kernel_gradient(kept[0], g, kept[1].shape[:2], stride, pads),
        ),
    )
    return convolve(x, k)
