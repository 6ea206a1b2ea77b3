"""The CLIP text encoder (OpenAI's and OpenCLIP's), built from a transformers `config.json`.

Source: Radford et al. 2021 (arXiv:2103.00020), section 2.4; parameter names follow transformers' CLIPTextModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models.activations import ACTIVATIONS, checked_activation
from bridgejax.models.attention import attention
from bridgejax.models.building import initial, traced_once
from bridgejax.models.config_values import positive_int, positive_number
from bridgejax.models.layers import LayerOptions, layer_norm, linear
from bridgejax.models.weights import torch_rules

CLIP_TEXT_RULES = torch_rules()
TOKEN_TABLE = "embeddings.token_embedding.weight"  # the published name of the token embeddings


def plain_text_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns text-encoder tensors without the `text_model.` prefix of published files."""
    return {name.removeprefix("text_model."): array for name, array in tensors.items()}


@dataclass(frozen=True)
class LayerConfig:
    """The sizes of a transformer layer."""

    # hidden_size, heads, intermediate_size: widths, and how many heads share the first
    hidden_size: int
    heads: int
    intermediate_size: int
    activation: str  # a key of `bridgejax.models.activations.ACTIVATIONS`
    epsilon: float  # of the layer normalisations
    # Each branch is multiplied by learned factors, one per channel (Touvron et al. 2021, arXiv:2103.17239).
    layer_scale: bool = False
    gated: bool = False  # the MLP is a SwiGLU (Shazeer 2020, arXiv:2002.05202) instead


@dataclass(frozen=True)
class TextConfig:
    """A CLIP text encoder: its layers, and the numbers of a transformers `config.json` under their names there."""

    layer: LayerConfig
    vocab_size: int
    projection_dim: int
    num_hidden_layers: int
    max_position_embeddings: int
    eos_token_id: int

    @classmethod
    def read(cls, config: JSONObject, where: str) -> TextConfig:
        """Reads a `config.json`; what it leaves out is as in transformers.

        Raises:
          UserError: a value is wrong or not supported; the file and the key are named.
        """
        text = config.get("text_config", config)
        if not isinstance(text, dict):
            raise UserError(f"{where}: text_config is {text!r}; expected an object, get the published config.json.")
        layer = LayerConfig(
            hidden_size=positive_int(text, "hidden_size", where, 512),
            heads=positive_int(text, "num_attention_heads", where, 8),
            intermediate_size=positive_int(text, "intermediate_size", where, 2048),
            activation=checked_activation(text.get("hidden_act", "quick_gelu"), f"{where}: hidden_act"),
            epsilon=positive_number(text, "layer_norm_eps", where, 1e-5),
        )
        if layer.hidden_size % layer.heads:
            raise UserError(f"{where}: num_attention_heads = {layer.heads} must divide hidden_size = {layer.hidden_size}.")
        return cls(
            layer,
            vocab_size=positive_int(text, "vocab_size", where, 49408),
            projection_dim=positive_int(text, "projection_dim", where, 512),
            num_hidden_layers=positive_int(text, "num_hidden_layers", where, 12),
            max_position_embeddings=positive_int(text, "max_position_embeddings", where, 77),
            eos_token_id=positive_int(text, "eos_token_id", where, 49407),
        )


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

    def __init__(self, config: TextConfig, **options: Unpack[LayerOptions]):
        init, width = initial(nnx.initializers.normal(0.02), options["rngs"]), config.layer.hidden_size
        self.token_embedding = nnx.Embed(config.vocab_size, width, embedding_init=init, **options)
        self.position_embedding = nnx.Embed(config.max_position_embeddings, width, embedding_init=init, **options)

    def __call__(self, ids: jax.Array, words: Words | None = None) -> jax.Array:
        tokens = self.token_embedding(ids)
        if words is not None:
            place, count = ids - words.first, words.rows.shape[0]
            rows = words.rows.astype(tokens.dtype)[jnp.clip(place, 0, count - 1)]
            tokens = jnp.where(((place >= 0) & (place < count))[..., None], rows, tokens)
        return tokens + self.position_embedding(jnp.arange(ids.shape[1]))[None]


class SelfAttention(nnx.Module):
    """Multi-head attention with biases; the mask (causal for text, None for images) comes with the call."""

    def __init__(self, features: int, heads: int, features_out: int | None = None, **options: Unpack[LayerOptions]):
        self.q_proj = linear(features, features, **options)
        self.k_proj = linear(features, features, **options)
        self.v_proj = linear(features, features, **options)
        self.out_proj = linear(features, features_out or features, **options)
        self.heads = heads

    def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, query: jax.Array | None = None) -> jax.Array:
        """Maps `x` [n, tokens, features] to as many tokens, or to those of `query` [n, q, features] where it asks (pooling)."""
        asking = x if query is None else query
        q, k, v = (
            layer(y).reshape(*y.shape[:2], self.heads, -1)
            for layer, y in ((self.q_proj, asking), (self.k_proj, x), (self.v_proj, x))
        )
        return self.out_proj(attention(q, k, v, mask).reshape(asking.shape))


class Mlp(nnx.Module):
    """Two dense layers."""

    def __init__(self, features: int, hidden: int, activation: str, **options: Unpack[LayerOptions]):
        self.fc1 = linear(features, hidden, **options)
        self.fc2 = linear(hidden, features, **options)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class GatedMlp(nnx.Module):
    """down · (silu(gate · x) × up · x), with biases."""

    def __init__(self, features: int, hidden: int, **options: Unpack[LayerOptions]):
        self.gate = linear(features, hidden, **options)
        self.up = linear(features, hidden, **options)
        self.down = linear(hidden, features, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    """Pre-normalised attention and MLP, residual."""

    branches: ClassVar[tuple[str, ...]] = ("self_attn", "mlp")  # what stochastic depth may skip

    def __init__(self, config: LayerConfig, **options: Unpack[LayerOptions]):
        features, hidden, epsilon = config.hidden_size, config.intermediate_size, config.epsilon
        self.self_attn = SelfAttention(features, config.heads, **options)
        self.layer_norm1 = layer_norm(features, epsilon=epsilon, **options)
        self.mlp: nnx.Module = (
            GatedMlp(features, hidden, **options) if config.gated else Mlp(features, hidden, config.activation, **options)
        )
        self.layer_norm2 = layer_norm(features, epsilon=epsilon, **options)
        ones = jnp.ones((features,), options.get("param_dtype", jnp.float32)) if config.layer_scale else None
        self.layer_scale1 = None if ones is None else nnx.Param(ones)
        self.layer_scale2 = None if ones is None else nnx.Param(ones)

    @traced_once
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        y = self.self_attn(self.layer_norm1(x), mask)
        x = x + (y if self.layer_scale1 is None else y * self.layer_scale1[...].astype(y.dtype))
        y = self.mlp(self.layer_norm2(x))
        return x + (y if self.layer_scale2 is None else y * self.layer_scale2[...].astype(y.dtype))


class Transformer(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: TextConfig, **options: Unpack[LayerOptions]):
        self.layers = nnx.List([Layer(config.layer, **options) for _ in range(config.num_hidden_layers)])


class TextNetwork(nnx.Module):
    """Token ids → embeddings."""

    max_tokens: int  # how many it takes
    projected: int  # the width of `TextOutput.pooled`

    def __call__(self, ids: jax.Array, words: Words | None = None) -> TextOutput:
        """Encodes token ids, int32 [n, tokens], some of whose embeddings may be given; the outputs are float32."""
        raise NotImplementedError


class CLIPTextModel(TextNetwork):
    """CLIP's: causal, an end token whose last state is the text's."""

    def __init__(
        self,
        config: JSONObject,
        *,
        projection: bool = False,
        where: str = "text encoder config",
        **options: Unpack[LayerOptions],
    ):
        """Builds the network of a transformers `config.json` (CLIPTextModel, or …WithProjection if `projection`).

        Raises:
          UserError: a value is wrong or not supported; the file (`where`) and the key are named.
        """
        c = TextConfig.read(config, where)
        width = c.layer.hidden_size
        self.embeddings = Embeddings(c, **options)
        self.encoder = Transformer(c, **options)
        self.final_layer_norm = layer_norm(width, epsilon=c.layer.epsilon, **options)
        self.text_projection = linear(width, c.projection_dim, use_bias=False, **options) if projection else None
        self.eos_token_id = c.eos_token_id
        self.max_tokens = c.max_position_embeddings
        self.width = width
        self.projected = c.projection_dim if projection else width

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
