"""Attention and the transformer blocks of diffusion UNets, named as in diffusers."""

from __future__ import annotations

import functools
import math
import warnings
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from bridgejax.models.building import traced_once
from bridgejax.models.layers import ZEROS, Conv2d, GroupNorm, LayerOptions, layer_norm, linear

# Scores of one call beyond this many values are computed in blocks of queries (1 GiB of float32).
_MAX_SCORES = 1 << 28
# On a CPU one head's, up to that many (2 MiB), stay in its caches, where each pass over them is several times quicker than
# through memory (`python -m benchmarks attention`).
_CACHED_SCORES = 1 << 19
# Of a head with more, so many queries at a time: fewer leave the matrix products too small for several cores.
_CPU_QUERIES = 512
# The widest heads of cuDNN's kernels: from Hopper on, and everywhere.
_CUDNN_WIDTH, _CUDNN_WIDTH_EVERYWHERE = 256, 128


def attention(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns softmax(query · keyᵀ / sqrt(d) + mask) · value.

    Args:
      query: [n, q, heads, d].
      key: [n, k, heads, d].
      value: [n, k, heads, d].
      mask: additive float32, broadcastable to [n, heads, q, k].

    Returns:
      [n, q, heads, d] in the query's dtype; the softmax is computed in float32. Where cuDNN's fused kernel fits it is
      taken through `jax.nn.dot_product_attention`. Everywhere else heads come first and the normalisation follows the
      second product: the same numbers as that function's "xla" implementation, two to six times quicker on a CPU, and
      long sequences go in blocks of queries, on a CPU head by head.
    """
    width = query.shape[-1]
    if mask is None and fused(query.dtype, width):
        return _in_cudnn(query, key, value)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    # Wide heads (the autoencoder's single one) are all matrix product: nothing is gained there.
    one_head = q.shape[2] * k.shape[2]
    if mask is None and one_head > _CACHED_SCORES and width <= 256 and jax.default_backend() == "cpu":
        return _head_by_head(query, key, value)
    blocks = 1
    while scores // blocks > _MAX_SCORES and q.shape[2] % (2 * blocks) == 0:
        blocks *= 2
    if blocks == 1 or mask is not None:
        return jnp.swapaxes(_heads_first(q, k, v, mask), 1, 2)
    n, heads, length, _ = q.shape
    parts = jnp.moveaxis(q.reshape(n, heads, blocks, length // blocks, width), 2, 0)
    out = lax.map(lambda part: _heads_first(part, k, v, None), parts)
    return jnp.swapaxes(jnp.moveaxis(out, 0, 2).reshape(n, heads, length, width), 1, 2)


def fused(dtype: DTypeLike, width: int) -> bool:
    """Returns whether attention without a mask runs in cuDNN's fused kernel: half precision and heads that fit it, on a GPU."""
    kind = jnp.dtype(dtype).name
    if kind not in ("bfloat16", "float16") or width % 8 or width > _CUDNN_WIDTH or jax.default_backend() != "gpu":
        return False
    return _cudnn_compiles(kind, width)


@jax.custom_vjp
def _in_cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Returns what cuDNN's fused kernel gives; its derivatives take even lengths alone, so odd ones are padded for them."""
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _of_even_lengths(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    n, queries, keys = query.shape[0], query.shape[1], key.shape[1]
    if queries % 2 == keys % 2 == 0:
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value))
    real, shown = (jnp.full(n, length, jnp.int32) for length in (queries, keys))
    out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn", query_seq_lengths=real, key_value_seq_lengths=shown)
    return out[:, :queries]


_in_cudnn.defvjp(lambda *arrays: jax.vjp(_of_even_lengths, *arrays), lambda backwards, grad: backwards(grad))


@functools.cache
def _cudnn_compiles(kind: str, width: int) -> bool:
    """Tries the fused kernels of both directions once.

    Old GPUs, AMD's and installations without cuDNN get a warning, unless the heads are wider than all of cuDNN's kernels take.
    """

    def total(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return _in_cudnn(q, k, v).astype(jnp.float32).sum()

    try:
        for length in (64, 63):
            x = jax.ShapeDtypeStruct((1, length, 1, width), kind)
            jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2))).lower(x, x, x).compile()
    except Exception as error:  # the kinds differ between the checks of JAX, XLA and cuDNN
        if width > _CUDNN_WIDTH_EVERYWHERE:
            return False
        warnings.warn(
            f"cuDNN's attention is not available here ({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            "the plain one is used, which takes more time and memory.",
            stacklevel=2,
        )
        return False
    return True


def _heads_first(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None) -> jax.Array:
    q = q * jnp.asarray(1.0 / math.sqrt(q.shape[-1]), q.dtype)
    scores = jnp.einsum("nhqd,nhkd->nhqk", q, k, preferred_element_type=jnp.float32)
    return _softmax_product(scores if mask is None else scores + mask, v)


def _softmax_product(scores: jax.Array, values: jax.Array) -> jax.Array:
    """Returns softmax(scores [..., q, k]) · values [..., k, d]; the normalisation follows the product."""
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    out = jnp.matmul(weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return (out / total).astype(values.dtype)


def _head_by_head(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Returns the attention of [n, …, heads, d], one head and one block of queries after another.

    On one device the images go one after another too. On several they go together, for a mesh may hold them apart.
    """
    n, length, heads, width = query.shape
    block = length
    while block > _CPU_QUERIES and block % 2 == 0:
        block //= 2
    alone = jax.device_count() == 1

    def by_head(x: jax.Array) -> jax.Array:  # [heads of all images, 1 image, …, d] or [heads, images, …, d]
        x = jnp.transpose(x, (0, 2, 1, 3) if alone else (2, 0, 1, 3))
        return x.reshape(-1, 1, *x.shape[2:]) if alone else x

    q = by_head(query)
    parts = jnp.moveaxis(q.reshape(*q.shape[:2], length // block, block, width), 2, 1)

    def one_head(head: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        mine, keys, values = head  # [blocks, images, block, d], [images, d, k], [images, k, d]
        return lax.map(lambda part: _softmax_product(jnp.matmul(part, keys, preferred_element_type=jnp.float32), values), mine)

    turned = jnp.swapaxes(by_head(key), 2, 3)  # once, not for each block
    out = lax.map(one_head, (parts * jnp.asarray(1.0 / math.sqrt(width), parts.dtype), turned, by_head(value)))
    out = jnp.moveaxis(out, 1, 2).reshape(q.shape)
    return jnp.transpose(out.reshape(n, heads, length, width), (0, 2, 1, 3)) if alone else jnp.transpose(out, (1, 2, 0, 3))


class Attention(nnx.Module):
    """Multi-head attention as in diffusers: `to_q`, `to_k`, `to_v`, `to_out.0`."""

    def __init__(
        self,
        features: int,
        heads: int,
        *,
        context_features: int | None = None,
        qkv_bias: bool = False,
        **options: Unpack[LayerOptions],
    ):
        """Makes the layer; `context_features` is the width of keys and values (None: self-attention)."""
        context_features = features if context_features is None else context_features
        self.to_q = linear(features, features, use_bias=qkv_bias, **options)
        self.to_k = linear(context_features, features, use_bias=qkv_bias, **options)
        self.to_v = linear(context_features, features, use_bias=qkv_bias, **options)
        self.to_out = nnx.List([linear(features, features, **options)])
        self.heads = heads

    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        """Maps `x` [n, q, features] and `context` [n, k, context_features] to [n, q, features]."""
        source = x if context is None else context
        q, k, v = (
            layer(y).reshape(*y.shape[:2], self.heads, -1)
            for layer, y in ((self.to_q, x), (self.to_k, source), (self.to_v, source))
        )
        return self.to_out[0](attention(q, k, v).reshape(x.shape))


class GatedGelu(nnx.Module):
    """x · W₁ times the exact GELU of x · W₂, both from one product `proj` (GEGLU of diffusers)."""

    def __init__(self, features_in: int, features_out: int, **options: Unpack[LayerOptions]):
        self.proj = linear(features_in, 2 * features_out, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return value * jax.nn.gelu(gate, approximate=False)


class Identity(nnx.Module):
    """Holds the place of a layer without parameters, so that numbered names agree with the published ones."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class FeedForward(nnx.Module):
    """`net.0` gated GELU, `net.2` output."""

    def __init__(self, features: int, **options: Unpack[LayerOptions]):
        self.net = nnx.List(
            [GatedGelu(features, 4 * features, **options), Identity(), linear(4 * features, features, **options)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.net:
            x = layer(x)
        return x


class TransformerBlock(nnx.Module):
    """Self-attention, attention to the text, feed-forward; each pre-normalised and residual."""

    def __init__(self, features: int, heads: int, context_features: int, **options: Unpack[LayerOptions]):
        self.norm1 = layer_norm(features, **options)
        self.attn1 = Attention(features, heads, **options)
        self.norm2 = layer_norm(features, **options)
        self.attn2 = Attention(features, heads, context_features=context_features, **options)
        self.norm3 = layer_norm(features, **options)
        self.ff = FeedForward(features, **options)

    @traced_once
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """Transformer blocks over the pixels of a feature map (Transformer2DModel of diffusers)."""

    def __init__(
        self,
        features: int,
        heads: int,
        context_features: int,
        layers: int,
        groups: int,
        linear_projection: bool,
        **options: Unpack[LayerOptions],
    ):
        self.norm = GroupNorm(groups, features, epsilon=1e-6, **options)
        if linear_projection:
            self.proj_in: nnx.Module = linear(features, features, **options)
            self.proj_out: nnx.Module = linear(features, features, kernel_init=ZEROS, **options)
        else:
            self.proj_in = Conv2d(features, features, 1, **options)
            self.proj_out = Conv2d(features, features, 1, kernel_init=ZEROS, **options)
        self.transformer_blocks = nnx.List(
            [TransformerBlock(features, heads, context_features, **options) for _ in range(layers)]
        )

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Maps `x` [n, h, w, features], with `context` [n, tokens, context_features], to the same shape."""
        batch, height, width, features = x.shape
        y = self.proj_in(self.norm(x)).reshape(batch, height * width, features)
        for block in self.transformer_blocks:
            y = block(y, context)
        return x + self.proj_out(y.reshape(x.shape))
