"""T5, the encoder-decoder for text, built from a transformers `config.json`: v1.0 (ReLU, tied head) and v1.1 (gated GELU).

Source: Raffel et al. 2020 (arXiv:1910.10683), section 2.1; v1.1 after Shazeer 2020 (arXiv:2002.05202). The published names of
the parameters are those of transformers' T5ForConditionalGeneration; `T5_RULES` says which of ours each one is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models.activations import ACTIVATIONS, checked_activation
from bridgejax.models.building import initial
from bridgejax.models.config_values import positive_int, positive_number, require
from bridgejax.models.layers import LayerOptions, linear
from bridgejax.models.weights import Rule, torch_rules

T5_RULES = torch_rules(
    Rule(r"(\w+)\.relative_bias\.embedding", r"\1.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    Rule(r"(\w+\.block\.\d+)\.self_attention\.(\w)\.kernel", r"\1.layer.0.SelfAttention.\2.weight", "linear"),
    Rule(r"(\w+\.block\.\d+)\.self_norm\.scale", r"\1.layer.0.layer_norm.weight"),
    Rule(r"(\w+\.block\.\d+)\.cross_attention\.(\w)\.kernel", r"\1.layer.1.EncDecAttention.\2.weight", "linear"),
    Rule(r"(\w+\.block\.\d+)\.cross_norm\.scale", r"\1.layer.1.layer_norm.weight"),
    Rule(r"(encoder\.block\.\d+)\.mlp\.(\w+)\.kernel", r"\1.layer.1.DenseReluDense.\2.weight", "linear"),
    Rule(r"(encoder\.block\.\d+)\.mlp_norm\.scale", r"\1.layer.1.layer_norm.weight"),
    Rule(r"(decoder\.block\.\d+)\.mlp\.(\w+)\.kernel", r"\1.layer.2.DenseReluDense.\2.weight", "linear"),
    Rule(r"(decoder\.block\.\d+)\.mlp_norm\.scale", r"\1.layer.2.layer_norm.weight"),
)
_TOKENS, _HEAD = "shared.weight", "lm_head.weight"
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # of the token table, in older files
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"  # in published files; no model reads it
_MASKED = -1e30  # added to the score of a token that is not to be seen


@dataclass(frozen=True)
class T5Config:
    """The numbers of a transformers `config.json` that decide the network and how a text begins and ends."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    buckets: int
    max_distance: int
    epsilon: float
    activation: str  # a key of `bridgejax.models.activations.ACTIVATIONS`
    gated: bool  # whether a second product gates the first (v1.1)
    scales_output: bool  # whether the last hidden states are divided by sqrt(d_model) before the head (v1.0)
    pad_id: int
    start_id: int  # what a decoder's input begins with
    end_ids: tuple[int, ...]  # what a text ends with

    @classmethod
    def read(cls, config: JSONObject, where: str) -> T5Config:
        """Reads a `config.json`; what it leaves out is as in transformers.

        Raises:
          UserError: a value is wrong or not supported; the file and the key are named.
        """
        require(config, where, {"model_type": "t5", "is_encoder_decoder": True})
        projection = str(config.get("feed_forward_proj", "relu"))
        gate, dash, named = projection.rpartition("-")
        if dash and gate != "gated":
            raise UserError(f"{where}: feed_forward_proj = {projection!r} is not supported; it must be ACT or gated-ACT.")
        activation = "gelu_new" if projection == "gated-gelu" else named
        layers = positive_int(config, "num_layers", where, 6)
        ends = config.get("eos_token_id", 1)
        pad = _token_id(config, "pad_token_id", where, 0)
        # transformers 5 forgets that the head was not tied and keeps what follows from it under a name of its own.
        scales = config.get("scale_decoder_outputs", config.get("tie_word_embeddings") is not False)
        return cls(
            vocab_size=positive_int(config, "vocab_size", where, 32128),
            d_model=positive_int(config, "d_model", where, 512),
            d_kv=positive_int(config, "d_kv", where, 64),
            d_ff=positive_int(config, "d_ff", where, 2048),
            encoder_layers=layers,
            decoder_layers=layers
            if config.get("num_decoder_layers") is None
            else positive_int(config, "num_decoder_layers", where),
            heads=positive_int(config, "num_heads", where, 8),
            buckets=positive_int(config, "relative_attention_num_buckets", where, 32),
            max_distance=positive_int(config, "relative_attention_max_distance", where, 128),
            epsilon=positive_number(config, "layer_norm_epsilon", where, 1e-6),
            activation=checked_activation(activation, f"{where}: feed_forward_proj"),
            gated=bool(dash),
            scales_output=bool(scales),
            pad_id=pad,
            start_id=pad
            if config.get("decoder_start_token_id") is None
            else _token_id(config, "decoder_start_token_id", where),
            end_ids=tuple(ends) if isinstance(ends, list) else (_token_id(config, "eos_token_id", where, 1),),
        )


def _token_id(config: JSONObject, key: str, where: str, default: int | None = None) -> int:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{where}: {key} is {value!r}; expected the number of a token, get the published config.json.")
    return value


def plain_t5_tensors(tensors: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Returns the tensors of a T5 without copies of the token table and without the one that no model uses.

    A head that equals the token table is such a copy (v1.0); one that differs stays (v1.1).

    Args:
      tensors: by their published names.
      where: the file or folder, for messages.

    Raises:
      UserError: encoder and decoder have token tables of their own, which no published T5 has.
    """
    plain = {name: array for name, array in tensors.items() if name != _UNUSED}
    copies = {name: plain.pop(name) for name in _COPIES if name in plain}
    for name, array in copies.items():
        if not np.array_equal(array, plain.setdefault(_TOKENS, array)):
            raise UserError(f"{where}: {name} is not {_TOKENS}, but T5 has one table of tokens; fetch the published file.")
    if _HEAD in plain and _TOKENS in plain and np.array_equal(plain[_HEAD], plain[_TOKENS]):
        del plain[_HEAD]
    return plain


def has_own_head(tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the tensors of `plain_t5_tensors` hold a head that is not the token table."""
    return _HEAD in tensors


def position_buckets(queries: int, keys: int, bidirectional: bool, buckets: int, max_distance: int) -> np.ndarray:
    """Returns int32 [queries, keys]: the bucket of each key's distance from each query (Raffel et al. 2020, section 2.1).

    Near distances have a bucket each; farther ones share buckets that grow with the logarithm, up to `max_distance`.
    """
    distance = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    start = np.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        start, distance = np.where(distance > 0, buckets, 0), np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = buckets // 2
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(max_distance / exact))
    far = np.minimum(exact + (ratio * np.float32(buckets - exact)).astype(np.int64), buckets - 1)
    return (start + np.where(distance < exact, distance, far)).astype(np.int32)


class KeysValues(NamedTuple):
    """What attention looks at, float32."""

    keys: jax.Array  # [n, heads, t, d]
    values: jax.Array  # [n, heads, t, d]


class T5Norm(nnx.Module):
    """Division by the root mean square over the last axis, and a scale; neither mean nor bias."""

    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.scale = nnx.Param(initial(nnx.initializers.ones, rngs)(None, (config.d_model,), jnp.float32))
        self.epsilon = config.epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + self.epsilon) * self.scale[...]


class T5Attention(nnx.Module):
    """Multi-head attention without biases and without a scale of the scores; what is added to these comes with the call."""

    def __init__(self, config: T5Config, **options: Unpack[LayerOptions]):
        inner = config.heads * config.d_kv
        self.q, self.k, self.v = (linear(config.d_model, inner, use_bias=False, **options) for _ in range(3))
        self.o = linear(inner, config.d_model, use_bias=False, **options)
        self.heads = config.heads

    def _split(self, x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(*x.shape[:2], self.heads, -1), 1, 2)

    def look(self, x: jax.Array) -> KeysValues:
        """Returns the keys and values of `x` [n, t, d_model]."""
        return KeysValues(self._split(self.k(x)), self._split(self.v(x)))

    def __call__(self, x: jax.Array, seen: KeysValues, bias: jax.Array) -> jax.Array:
        """Maps `x` [n, q, d_model] to the same shape; `bias` is broadcastable to the scores, [n, heads, q, t]."""
        scores = jnp.einsum("nhqd,nhkd->nhqk", self._split(self.q(x)), seen.keys) + bias
        out = jnp.einsum("nhqk,nhkd->nhqd", jax.nn.softmax(scores), seen.values)
        return self.o(jnp.swapaxes(out, 1, 2).reshape(*x.shape[:2], -1))


class T5Mlp(nnx.Module):
    """Two dense layers, the first of them gated or not."""

    def __init__(self, config: T5Config, **options: Unpack[LayerOptions]):
        def inner() -> nnx.Linear:
            return linear(config.d_model, config.d_ff, use_bias=False, **options)

        self.wi = None if config.gated else inner()
        self.wi_0 = inner() if config.gated else None
        self.wi_1 = inner() if config.gated else None
        self.wo = linear(config.d_ff, config.d_model, use_bias=False, **options)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array) -> jax.Array:
        first, *gated = (layer(x) for layer in (self.wi, self.wi_0, self.wi_1) if layer is not None)
        return self.wo(self.activation(first) * gated[0] if gated else self.activation(first))


class T5Block(nnx.Module):
    """Self-attention, in the decoder attention to the encoder's output, and an MLP; each pre-normalised and residual."""

    def __init__(self, config: T5Config, decoder: bool, **options: Unpack[LayerOptions]):
        rngs = options["rngs"]
        self.self_norm, self.self_attention = T5Norm(config, rngs), T5Attention(config, **options)
        if decoder:
            self.cross_norm, self.cross_attention = T5Norm(config, rngs), T5Attention(config, **options)
        self.mlp_norm, self.mlp = T5Norm(config, rngs), T5Mlp(config, **options)

    def encode(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        """Maps `x` [n, s, d_model] to the same shape."""
        y = self.self_norm(x)
        x = x + self.self_attention(y, self.self_attention.look(y), bias)
        return x + self.mlp(self.mlp_norm(x))

    def decode(
        self, x: jax.Array, bias: jax.Array, source: KeysValues, source_bias: jax.Array, cache: KeysValues, position: jax.Array
    ) -> tuple[jax.Array, KeysValues]:
        """Maps `x` [n, q, d_model], whose first token stands at `position`, to the same shape, and adds its keys and values.

        `bias` is broadcastable to [n, heads, q, length of the cache], `source_bias` to [n, heads, q, s].
        """
        y = self.self_norm(x)
        new = self.self_attention.look(y)
        start = (0, 0, position, 0)
        cache = KeysValues(*(lax.dynamic_update_slice(old, part, start) for old, part in zip(cache, new, strict=True)))
        x = x + self.self_attention(y, cache, bias)
        x = x + self.cross_attention(self.cross_norm(x), source, source_bias)
        return x + self.mlp(self.mlp_norm(x)), cache


class T5Stack(nnx.Module):
    """The blocks of the encoder or the decoder; the biases of relative positions are shared by its blocks."""

    def __init__(self, config: T5Config, decoder: bool, **options: Unpack[LayerOptions]):
        init = initial(nnx.initializers.normal(config.d_model**-0.5), options["rngs"])
        self.relative_bias = nnx.Embed(config.buckets, config.heads, embedding_init=init, **options)
        count = config.decoder_layers if decoder else config.encoder_layers
        self.block = nnx.List([T5Block(config, decoder, **options) for _ in range(count)])
        self.final_layer_norm = T5Norm(config, options["rngs"])
        self.decoder, self.buckets, self.max_distance = decoder, config.buckets, config.max_distance

    def bias(self, length: int) -> jax.Array:
        """Returns what relative positions add to scores, float32 [1, heads, length, length]; a decoder sees no later one."""
        places = position_buckets(length, length, not self.decoder, self.buckets, self.max_distance)
        bias = jnp.moveaxis(self.relative_bias(jnp.asarray(places)), -1, 0)[None]
        return jnp.where(np.tril(np.ones((length, length), bool)), bias, _MASKED) if self.decoder else bias


class T5(nnx.Module):
    """Token ids of a source text and of the text so far → logits of the next token."""

    def __init__(self, config: T5Config, *, own_head: bool = False, rngs: nnx.Rngs):
        """Builds the network in float32.

        Args:
          config: its sizes.
          own_head: whether the head has weights of its own; else it is the token table.
          rngs: source of the initial values, or `bridgejax.models.building.ShapesOnly`.
        """
        options: LayerOptions = {"rngs": rngs}
        init = initial(nnx.initializers.normal(1.0), rngs)
        self.shared = nnx.Embed(config.vocab_size, config.d_model, embedding_init=init, **options)
        self.encoder, self.decoder = (T5Stack(config, decoder, **options) for decoder in (False, True))
        self.lm_head = linear(config.d_model, config.vocab_size, use_bias=False, **options) if own_head else None
        self.config = config

    def encode(self, ids: jax.Array) -> tuple[list[KeysValues], jax.Array]:
        """Encodes source texts, int32 [n, s]; pad tokens are not seen.

        Returns:
          For each block of the decoder what it sees of them, and what masks their pad tokens, float32 [n, 1, 1, s].
        """
        mask = jnp.where(ids == self.config.pad_id, _MASKED, 0.0)[:, None, None, :]
        x, bias = self.shared(ids), self.encoder.bias(ids.shape[1]) + mask
        for block in self.encoder.block:
            x = block.encode(x, bias)
        x = self.encoder.final_layer_norm(x)
        return [block.cross_attention.look(x) for block in self.decoder.block], mask

    def empty_cache(self, rows: int, length: int) -> list[KeysValues]:
        """Returns the cache of a decoder that has seen nothing yet, for texts of up to `length` tokens."""
        shape = (rows, self.config.heads, length, self.config.d_kv)
        return [KeysValues(jnp.zeros(shape), jnp.zeros(shape)) for _ in self.decoder.block]

    def decode(
        self,
        ids: jax.Array,
        source: list[KeysValues],
        mask: jax.Array,
        cache: list[KeysValues],
        bias: jax.Array,
        position: jax.Array,
    ) -> tuple[jax.Array, list[KeysValues]]:
        """Decodes the tokens from `position` on: logits, float32 [n, q, vocabulary], and the cache with these tokens.

        Args:
          ids: int32 [n, q], the tokens at `position` … `position` + q - 1.
          source, mask: of `encode`.
          cache: of the earlier tokens.
          bias: of `T5Stack.bias`, the rows of these tokens.
          position: int32 scalar.
        """
        x, caches = self.shared(ids), []
        for block, seen, old in zip(self.decoder.block, source, cache, strict=True):
            x, new = block.decode(x, bias, seen, mask, old, position)
            caches.append(new)
        x = self.decoder.final_layer_norm(x)
        if self.config.scales_output:
            x = x * self.config.d_model**-0.5
        return self.shared.attend(x) if self.lm_head is None else self.lm_head(x), caches

    def __call__(self, ids: jax.Array, decoder_ids: jax.Array) -> jax.Array:
        """Returns logits after each token, float32 [n, t, vocabulary], of int32 [n, s] and [n, t]; pads of `ids` are masked."""
        source, mask = self.encode(ids)
        length = decoder_ids.shape[1]
        cache = self.empty_cache(ids.shape[0], length)
        return self.decode(decoder_ids, source, mask, cache, self.decoder.bias(length), jnp.int32(0))[0]
