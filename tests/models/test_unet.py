"""The UNet beside PyTorch's, trainable, and clear about configs it does not support."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from bridgejax.errors import UserError
from bridgejax.models.attention import _cudnn_compiles, attention, fused
from bridgejax.models.layers import GroupNorm, upsample_nearest
from bridgejax.models.safetensors_files import read_tensors
from bridgejax.models.unet import UNET_LINEAR_RULES, UNET_RULES, UNet2DCondition
from bridgejax.models.weights import assign, export

TINY: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}


def filled(build: Any) -> Any:
    """The module with random numbers from NumPy; compiling the initialisers would take longer than the test."""
    graph, state = nnx.split(nnx.eval_shape(build))
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> Any:
        spread = 0.02 if len(leaf.shape) == 1 else 1 / np.prod(leaf.shape[:-1]) ** 0.5
        return jnp.asarray(rng.normal("scale" in str(path), spread, leaf.shape), leaf.dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, state))


def test_learns_and_leaves_the_shapes_alone() -> None:
    graph, state = nnx.split(filled(lambda: UNet2DCondition(TINY, rngs=nnx.Rngs(0))))
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 4))
    context = jnp.ones((2, 5, 12))

    @jax.jit
    def step(state: nnx.State) -> tuple[jax.Array, nnx.State]:
        def loss(state: nnx.State) -> jax.Array:
            return jnp.mean(jnp.square(nnx.merge(graph, state)(x, jnp.asarray([3, 700]), context) - x))

        value, gradient = jax.value_and_grad(loss)(state)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, state, gradient)

    losses = []
    for _ in range(5):
        value, state = step(state)
        losses.append(float(value))
    assert losses[-1] < losses[0]
    assert nnx.merge(graph, state)(x[:, :3, :5], jnp.asarray(1), context).shape == (2, 3, 5, 4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "AttnDownBlock2D"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type"),
        ({"norm_num_groups": 3}, "norm_num_groups"),
        ({"attention_head_dim": [3, 3]}, "attention_head_dim"),
        ({"attention_head_dim": [2]}, "attention_head_dim"),
        ({"addition_embed_type": "image"}, "addition_embed_type"),
        ({"conditioning_magic": 1}, "conditioning_magic"),
        ({"act_fn": "gelu_new"}, "act_fn = 'gelu_new'"),
    ],
)
def test_unsupported_configs_are_named(change: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        nnx.eval_shape(lambda: UNet2DCondition({**TINY, **change}, rngs=nnx.Rngs(0)))


def test_attention_equals_the_library_function() -> None:
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 7, 3, 8)) * 3 for i in range(3))
    mask = jnp.where(jnp.tril(jnp.ones((7, 7), bool)), 0.0, -jnp.inf)[None, None]
    np.testing.assert_allclose(attention(q, k, v), jax.nn.dot_product_attention(q, k, v), atol=1e-5)
    np.testing.assert_allclose(attention(q, k, v, mask), jax.nn.dot_product_attention(q, k, v, is_causal=True), atol=1e-5)


def test_attention_in_blocks_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 16, 3, 8)) for i in range(3))
    whole = attention(q, k, v)
    monkeypatch.setattr("bridgejax.models.attention._MAX_SCORES", 400)
    np.testing.assert_allclose(attention(q, k, v), whole, atol=1e-6)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("keys", [96, 7, 5])
def test_attention_head_by_head(monkeypatch: pytest.MonkeyPatch, keys: int, devices: int) -> None:
    """On a CPU one head after the other, on one device one image too; numbers and derivatives are those of the whole."""
    q, k, v = (jax.random.normal(jax.random.key(i), (2, n, 3, 8)) for i, n in enumerate((96, keys, keys)))
    run = jax.value_and_grad(lambda q, k, v: jnp.square(attention(q, k, v)).sum(), argnums=(0, 1, 2))
    whole, whole_gradients = run(q, k, v)
    monkeypatch.setattr("bridgejax.models.attention._CACHED_SCORES", 100)
    monkeypatch.setattr("bridgejax.models.attention._CPU_QUERIES", 24)
    monkeypatch.setattr("jax.device_count", lambda: devices)
    largest = max(np.prod(x.shape) for x in _arrays_in(jax.make_jaxpr(attention)(q, k, v).jaxpr))
    assert largest <= max(q.size, devices * 24 * keys)  # no more scores at once than 24 queries of one head have
    value, gradients = run(q, k, v)
    np.testing.assert_allclose(value, whole, rtol=1e-5)
    for ours, theirs in zip(gradients, whole_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def _arrays_in(jaxpr: Any) -> Iterator[Any]:
    """Yields every array that a program makes, inner programs included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from _arrays_in(inner)


def test_attention_takes_the_fused_kernel_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU: half precision and heads of a multiple of 8 up to 256; never with a mask; on a CPU nowhere."""
    q = jax.random.normal(jax.random.key(0), (1, 8, 2, 64), jnp.bfloat16)
    assert not fused(q.dtype, 64)
    plain, library, taken = attention(q, q, q), jax.nn.dot_product_attention, []

    def fake(query: jax.Array, key: jax.Array, value: jax.Array, *, implementation: str) -> jax.Array:
        taken.append(implementation)
        return library(query, key, value)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", fake)
    monkeypatch.setattr("bridgejax.models.attention._cudnn_compiles", lambda kind, width: True)
    assert [fused(jnp.bfloat16, width) for width in (40, 64, 160, 256, 264, 20)] == [True] * 4 + [False] * 2
    assert fused(jnp.float16, 64)
    assert not fused(jnp.float32, 64)
    np.testing.assert_allclose(attention(q, q, q).astype(jnp.float32), plain.astype(jnp.float32), atol=0.02)
    assert taken == ["cudnn"]
    attention(q, q, q, jnp.zeros((1, 1, 8, 8)))
    assert taken == ["cudnn"]


def test_cudnns_derivatives_meet_even_lengths_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backward kernel refuses odd lengths, which class tokens (197) and prompts (77) have; the values stay the same."""
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 7 + 2 * (i > 0), 2, 16), jnp.bfloat16) for i in range(3))
    library, lengths = jax.nn.dot_product_attention, []

    def fake(query: jax.Array, key: jax.Array, value: jax.Array, *, implementation: str, **options: Any) -> jax.Array:
        lengths.append((query.shape[1], key.shape[1]))
        return library(query, key, value, **options)

    def total(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sin(attention(q, k, v).astype(jnp.float32)).sum()

    expected = jax.grad(total, argnums=(0, 1, 2))(q, k, v)
    plain = attention(q, k, v)
    monkeypatch.setattr("bridgejax.models.attention.fused", lambda dtype, width: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", fake)
    np.testing.assert_allclose(attention(q, k, v).astype(jnp.float32), plain.astype(jnp.float32), atol=0.02)
    assert lengths == [(7, 9)]
    for found, right in zip(jax.grad(total, argnums=(0, 1, 2))(q, k, v), expected, strict=True):
        assert found.shape == right.shape
        np.testing.assert_allclose(found.astype(jnp.float32), right.astype(jnp.float32), atol=0.02)
    assert lengths[1:] == [(8, 10)]


def test_attention_falls_back_where_the_fused_kernel_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real library function refuses cuDNN on this machine's CPU: one warning, and the plain path."""
    q = jax.random.normal(jax.random.key(0), (1, 8, 2, 64), jnp.bfloat16)
    plain = attention(q, q, q)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    _cudnn_compiles.cache_clear()
    try:
        with pytest.warns(UserWarning, match="cuDNN's attention is not available"):
            np.testing.assert_array_equal(attention(q, q, q), plain)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            attention(q, q, q)
            assert not fused(q.dtype, 160)  # too wide for most GPUs, so no reason to warn
    finally:
        _cudnn_compiles.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize("width", [40, 64, 128, 160])
def test_the_fused_kernel_agrees_with_the_plain_one(width: int) -> None:
    """On a real GPU, in half precision."""
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 197, 4, width), jnp.bfloat16) for i in range(3))
    assert fused(q.dtype, width)
    plain, backwards = jax.vjp(
        lambda *arrays: jax.nn.dot_product_attention(*arrays, implementation="xla"),
        *(x.astype(jnp.float32) for x in (q, k, v)),
    )
    found, fused_backwards = jax.vjp(attention, q, k, v)
    np.testing.assert_allclose(found.astype(jnp.float32), plain, atol=0.03)
    for ours, right in zip(fused_backwards(found), backwards(plain), strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), right, atol=0.03)


def test_group_norm_with_a_large_mean() -> None:
    x = np.random.default_rng(0).normal(1000, 1, (2, 5, 6, 8)).astype(np.float32)
    grouped = x.astype(np.float64).reshape(2, 30, 4, 2)
    expected = (grouped - grouped.mean((1, 3), keepdims=True)) / grouped.std((1, 3), keepdims=True)
    np.testing.assert_allclose(GroupNorm(4, 8)(jnp.asarray(x)), expected.reshape(x.shape), atol=2e-3)


def test_upsampling_takes_the_nearest_pixel() -> None:
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    assert upsample_nearest(x, 4, 4)[0, :, :, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert upsample_nearest(x, 3, 3)[0, :, :, 0].tolist() == [[0, 0, 1], [0, 0, 1], [2, 2, 3]]


PUBLISHED: dict[str, dict[str, Any]] = {
    "sd1": {"attention_head_dim": 4},
    "sd2": {"attention_head_dim": [2, 4], "use_linear_projection": True},
    "sdxl": {
        "attention_head_dim": [2, 4],
        "use_linear_projection": True,
        "transformer_layers_per_block": [1, 2],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 10,
    },
    "lcm": {"time_cond_proj_dim": 20},
    "pooled": {"addition_embed_type": "text", "addition_embed_type_num_heads": 4},
    "small": {"mid_block_type": None, "layers_per_block": 2},
}


@pytest.mark.parity
@pytest.mark.parametrize("kind", sorted(PUBLISHED))
def test_agrees_with_pytorch(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    config = {**TINY, "block_out_channels": [16, 32], "norm_num_groups": 8, **PUBLISHED[kind]}
    theirs = UNet2DConditionModel(**config).eval()
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    rules = UNET_LINEAR_RULES if saved["use_linear_projection"] else UNET_RULES
    tensors = read_tensors(tmp_path)
    ours = assign(nnx.eval_shape(lambda: UNet2DCondition(saved, rngs=nnx.Rngs(0))), tensors, rules, "unet")
    for name, array in export(ours, rules).items():
        np.testing.assert_array_equal(array, tensors[name])
    rng = np.random.default_rng(0)
    # An odd size: enlarging must come back to the sizes of the way down.
    x = rng.normal(size=(2, 4, 8, 6) if kind != "sd1" else (2, 4, 7, 9)).astype(np.float32)
    context = rng.normal(size=(2, 7, 12)).astype(np.float32)
    more, ours_more = {}, {}
    if kind == "sdxl":
        pooled, sizes = rng.normal(size=(2, 10)).astype(np.float32), np.asarray([[64, 48, 0, 0, 64, 48]] * 2, np.float32)
        more = {"added_cond_kwargs": {"text_embeds": torch.from_numpy(pooled), "time_ids": torch.from_numpy(sizes)}}
        ours_more = {"pooled": pooled, "time_ids": sizes}
    if kind == "lcm":
        condition = rng.normal(size=(2, 20)).astype(np.float32)
        more, ours_more = {"timestep_cond": torch.from_numpy(condition)}, {"timestep_cond": condition}
    call = nnx.jit(lambda model, *args, **kwargs: model(*args, **kwargs))
    for timestep in (1, 500, 999):
        with torch.no_grad():
            expected = theirs(torch.from_numpy(x), torch.tensor(timestep), torch.from_numpy(context), **more).sample.numpy()
        got = call(ours, jnp.asarray(x.transpose(0, 2, 3, 1)), jnp.asarray(timestep), context, **ours_more)
        np.testing.assert_allclose(got, expected.transpose(0, 2, 3, 1), atol=1e-4 * np.abs(expected).max())
