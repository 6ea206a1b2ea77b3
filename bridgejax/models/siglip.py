"""SigLIP and SigLIP 2 of fixed resolution (Zhai et al. 2023, arXiv:2303.15343; Tschannen et al. 2025, arXiv:2502.14786), from a
transformers `SiglipModel` folder.

A learned query pools the patches; the last position of a text, mostly padding, is its state. Logits are
exp(logit_scale) · cosine + logit_bias, whose sigmoid is the probability that image and text belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bridgejax.files import JSONObject
from bridgejax.models.clip import TextTower
from bridgejax.models.clip_text import Embeddings, TextConfig, TextNetwork, TextOutput, Transformer, Words
from bridgejax.models.config_values import require
from bridgejax.models.layers import LayerOptions, layer_norm, linear
from bridgejax.models.layout import Fused, Layout
from bridgejax.models.siglip_tokenizer import SigLIPTokenizer
from bridgejax.models.vit import ViTConfig
from bridgejax.models.vit_layouts import OURS, clip_layout, clip_part, sizes_file, transformers_sizes
from bridgejax.models.weights import Rule, layer_rules

_ACTIVATION, _EPSILON = "gelu_pytorch_tanh", 1e-6
_JOINT = Fused("in_proj", ("q", "k", "v"), "_")


class SigLIPTextModel(TextNetwork):
    """Token ids → embeddings: every position sees every other, and the last one is projected."""

    def __init__(self, config: JSONObject, *, rngs: nnx.Rngs, where: str):
        """Builds the network of a `text_config`.

        Raises:
          UserError: a value is wrong or not supported; the file (`where`) and the key are named.
        """
        c = TextConfig.read(config, where)
        width = c.layer.hidden_size
        options: LayerOptions = {"rngs": rngs}
        self.embeddings = Embeddings(c, **options)
        self.encoder = Transformer(c, **options)
        self.final_layer_norm = layer_norm(width, epsilon=c.layer.epsilon, **options)
        self.head = linear(width, c.projection_dim, **options)
        self.max_tokens, self.projected = c.max_position_embeddings, c.projection_dim

    def __call__(self, ids: jax.Array, words: Words | None = None) -> TextOutput:
        """Encodes token ids, int32 [n, tokens], padded to the length of training; the outputs are float32."""
        x = self.embeddings(ids, words)
        penultimate = x
        for layer in self.encoder.layers:
            penultimate, x = x, layer(x)
        last = self.final_layer_norm(x).astype(jnp.float32)
        return TextOutput(last, penultimate.astype(jnp.float32), self.head(last[:, -1]).astype(jnp.float32))


class SigLIPTexts(TextTower):
    """The text side of a SigLIP folder."""

    has_bias = True

    def _text_config(self, config: JSONObject, where: str) -> JSONObject:
        text = clip_part(config, "text_config", where)
        usual: JSONObject = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 32000}
        usual |= {"hidden_act": _ACTIVATION, "layer_norm_eps": _EPSILON, "max_position_embeddings": 64}
        text = {**usual, **text}
        width = text.get("projection_size") or text["hidden_size"]
        # Neither the end token nor a null id of a special one is asked for here.
        return {**text, "projection_size": width, "projection_dim": width, "eos_token_id": 1}

    def _network(self, where: str) -> TextNetwork:
        return SigLIPTextModel(self.config, rngs=nnx.Rngs(0), where=where)

    def _make_tokenizer(self, folder: Path) -> Callable[[Sequence[str]], np.ndarray]:
        pad = self.config.get("pad_token_id")
        return SigLIPTokenizer(
            folder, self._model.max_tokens, int(self.config["vocab_size"]), pad if isinstance(pad, int) else None
        )


def siglip_config(config: JSONObject, where: str) -> ViTConfig:
    """Returns the image tower of a transformers `config.json` with model_type siglip.

    Raises:
      UserError: a value is wrong or not supported; it is named.
    """
    vision, place = clip_part(config, "vision_config", where), f"{where}: vision_config"
    require(vision, place, {"vision_use_head": True})
    sizes = transformers_sizes(vision, place, patch=16, epsilon=_EPSILON, activation=_ACTIVATION)
    return replace(sizes, layout="siglip", name="siglip", class_token=False, pool="attention")


def siglip_file(config: ViTConfig, text: JSONObject | None, ours: JSONObject) -> JSONObject:
    """Returns a `config.json`; without a text tower it is the image tower with a head, which is read here alone."""
    said: JSONObject = {"model_type": "siglip", "vision_config": {**sizes_file(config), "model_type": "siglip_vision_model"}}
    if text is None:
        return {**said, OURS: ours}
    kept = {key: value for key, value in text.items() if key not in ("projection_dim", "eos_token_id")}
    return {**said, "architectures": ["SiglipModel"], "text_config": {**kept, "model_type": "siglip_text_model"}, OURS: ours}


def siglip_layout() -> Layout:
    """Returns the names of the tensors of the image side."""
    tower, joint = "vision_model.", "vision_model.head.attention.in_proj"
    usual = clip_layout()
    rules = (
        Rule(r"pool\.probe", f"{tower}head.probe"),
        *layer_rules(r"pool\.attention\.([qkv])_proj", rf"{joint}.\1"),
        *layer_rules(r"pool\.(.+)", rf"{tower}head.\1"),
        Rule(r"pool\.(.+)\.scale", rf"{tower}head.\1.weight"),
        Rule(r"patch\.bias", f"{tower}embeddings.patch_embedding.bias"),
        *usual.rules,
    )
    return Layout(
        rules,
        read=lambda tensors: _JOINT.split(usual.read(tensors)),
        write=lambda tensors: _JOINT.merge(usual.write(tensors)),
        spell=_JOINT.spell,
    )
