"""The CLIP text encoder (OpenAI's and OpenCLIP's), built from a transformers `config.json`.

Source: Radford et al. 2021 (arXiv:2103.00020), section 2.4; parameter names follow transformers' CLIPTextModel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.attention import attention
from bridgejax.models.conv import layer_norm, linear

DType = Any

DEFAULTS: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}


def quick_gelu(x: jax.Array) -> jax.Array:
    """Returns x · sigmoid(1.702 x), the GELU of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


class Words(NamedTuple):
    """Rows that stand in for those of a token table, so that gradients reach them and nothing else of it."""

    first: jax.Array  # int32 scalar, the id of the first row
    rows: jax.Array  # float32 [k, hidden], for the ids first … first + k - 1


class TextOutput(NamedTuple):
    """What a text encoder gives: float32 embeddings of tokens and of the whole text."""

    last_hidden_state: jax.Array  # [n, tokens, hidden], after the final normalisation
    penultimate: jax.Array  # [n, tokens, hidden], input of the last layer, not normalised (SDXL)
    pooled: jax.Array  # [n, hidden] at the end token, or [n, projection_dim] with a projection


class Embeddings(nnx.Module):
    """Token and position tables."""

    def __init__(self, c: Mapping[str, Any], dtype: DType, param_dtype: DType, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.02)
        options: dict[str, Any] = {"embedding_init": init, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.token_embedding = nnx.Embed(c["vocab_size"], c["hidden_size"], **options)
        self.position_embedding = nnx.Embed(c["max_position_embeddings"], c["hidden_size"], **options)

    def __call__(self, ids: jax.Array, words: Words | None = None) -> jax.Array:
        tokens = self.token_embedding(ids)
        if words is not None:
            place, count = ids - words.first, words.rows.shape[0]
            rows = words.rows.astype(tokens.dtype)[jnp.clip(place, 0, count - 1)]
            tokens = jnp.where(((place >= 0) & (place < count))[..., None], rows, tokens)
        return tokens + self.position_embedding(jnp.arange(ids.shape[1]))[None]


class SelfAttention(nnx.Module):
    """Multi-head self-attention with biases; the mask (causal for text, None for images) comes with the call."""

    def __init__(self, features: int, heads: int, **options: Any):
        self.q_proj = linear(features, features, **options)
        self.k_proj = linear(features, features, **options)
        self.v_proj = linear(features, features, **options)
        self.out_proj = linear(features, features, **options)
        self.heads = heads

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        q, k, v = (layer(x).reshape(*x.shape[:2], self.heads, -1) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attention(q, k, v, mask).reshape(x.shape))


class Mlp(nnx.Module):
    """Two dense layers."""

    def __init__(self, features: int, hidden: int, activation: str, **options: Any):
        self.fc1 = linear(features, hidden, **options)
        self.fc2 = linear(hidden, features, **options)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class Layer(nnx.Module):
    """Pre-normalised attention and MLP, residual."""

    def __init__(self, c: Mapping[str, Any], **options: Any):
        features, epsilon = c["hidden_size"], c["layer_norm_eps"]
        self.self_attn = SelfAttention(features, c["num_attention_heads"], **options)
        self.layer_norm1 = layer_norm(features, epsilon=epsilon, **options)
        self.mlp = Mlp(features, c["intermediate_size"], c["hidden_act"], **options)
        self.layer_norm2 = layer_norm(features, epsilon=epsilon, **options)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Transformer(nnx.Module):
    """The stack of layers."""

    def __init__(self, c: Mapping[str, Any], **options: Any):
        self.layers = nnx.List([Layer(c, **options) for _ in range(c["num_hidden_layers"])])


class CLIPTextModel(nnx.Module):
    """Token ids → embeddings."""

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        projection: bool = False,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Builds the network of a transformers `config.json` (CLIPTextModel, or …WithProjection if `projection`).

        Raises:
          UserError: the activation is not supported or the heads do not divide the width; the key is named.
        """
        text = config.get("text_config", config)
        c = {key: text.get(key, default) for key, default in DEFAULTS.items()}
        if c["hidden_act"] not in ACTIVATIONS:
            raise UserError(
                f"text encoder config: hidden_act = {c['hidden_act']!r} is not "
                f"supported; it must be one of {', '.join(ACTIVATIONS)}."
            )
        if c["hidden_size"] % c["num_attention_heads"]:
            raise UserError(
                f"text encoder config: num_attention_heads = {c['num_attention_heads']} "
                f"must divide hidden_size = {c['hidden_size']}."
            )
        options: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.embeddings = Embeddings(c, dtype, param_dtype, rngs)
        self.encoder = Transformer(c, **options)
        self.final_layer_norm = layer_norm(c["hidden_size"], epsilon=c["layer_norm_eps"], **options)
        self.text_projection = linear(c["hidden_size"], c["projection_dim"], use_bias=False, **options) if projection else None
        self.eos_token_id = int(c["eos_token_id"])
        self.max_tokens = int(c["max_position_embeddings"])
        self.width = int(c["hidden_size"])

    def __call__(self, ids: jax.Array, words: Words | None = None) -> TextOutput:
        """Encodes token ids, int32 [n, tokens], some of whose embeddings may be given; the outputs are float32."""
        tokens = ids.shape[1]
        mask = jnp.where(jnp.tril(jnp.ones((tokens, tokens), bool)), 0.0, -jnp.inf)[None, None]
        x = self.embeddings(ids, words)
        penultimate = x
        for layer in self.encoder.layers:
            penultimate = x
            x = layer(x, mask)
        last = self.final_layer_norm(x)
        # Old configs carry eos_token_id 2; there the end token is the largest id, as transformers has it.
        ends = ids if self.eos_token_id == 2 else (ids == self.eos_token_id)
        pooled = last[jnp.arange(ids.shape[0]), jnp.argmax(ends.astype(jnp.int32), axis=-1)]
        if self.text_projection is not None:
            pooled = self.text_projection(pooled)
        return TextOutput(last.astype(jnp.float32), penultimate.astype(jnp.float32), pooled.astype(jnp.float32))
