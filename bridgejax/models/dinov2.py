"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193), with registers or without (Darcet et al. 2023, arXiv:2309.16588), as
transformers publishes it.

Features are the class token after the last normalisation, the `pooler_output` of the bare model. A folder of
`Dinov2ForImageClassification` has a head on the class token and the mean of the patches side by side, so those are its
features.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bridgejax.files import JSONObject
from bridgejax.models.config_values import positive_int, require
from bridgejax.models.layout import Fused, Layout, Tensors
from bridgejax.models.vit import ViTConfig
from bridgejax.models.vit_layouts import OURS, body_rules, sizes_file, transformers_sizes, with_prefix
from bridgejax.models.weights import Rule, layer_rules

_CLASSES = {"dinov2": "Dinov2ForImageClassification", "dinov2_with_registers": "Dinov2WithRegistersForImageClassification"}
DINOV2_TYPES = tuple(_CLASSES)
_PARTS = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    r"self_attn\.q_proj": "attention.attention.query",
    r"self_attn\.k_proj": "attention.attention.key",
    r"self_attn\.v_proj": "attention.attention.value",
    r"self_attn\.out_proj": "attention.output.dense",
    r"mlp\.fc1": "mlp.fc1",
    r"mlp\.fc2": "mlp.fc2",
    r"mlp\.gate": "mlp.weights_in.gate",
    r"mlp\.up": "mlp.weights_in.up",
    r"mlp\.down": "mlp.weights_out",
}
_GATED = Fused("weights_in", ("gate", "up"))


def dinov2_config(config: JSONObject, where: str) -> ViTConfig:
    """Returns the network of a transformers `config.json` whose model_type is one of `DINOV2_TYPES`.

    Raises:
      UserError: a value is wrong or not supported; it is named.
    """
    require(config, where, {"qkv_bias": True})
    registers = config["model_type"] != "dinov2"
    sizes = transformers_sizes(config, where, patch=16 if registers else 14, epsilon=1e-6)
    ratio, gated = positive_int(config, "mlp_ratio", where, 4), bool(config.get("use_swiglu_ffn"))
    whole = _CLASSES[sizes.layout] in (config.get("architectures") or [])
    return replace(
        sizes,
        intermediate_size=_inner(sizes.hidden_size * ratio, gated),
        registers=positive_int(config, "num_register_tokens", where, 4) if registers else 0,
        layer_scale=True,
        gated=gated,
        antialias=registers,
        pool=str((config.get(OURS) or {}).get("pool", "token_and_mean" if whole else "token")),
    )


def _inner(hidden: int, gated: bool) -> int:
    """Returns the width within an MLP; a gated one, of three layers, keeps two thirds of it, in steps of eight."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden


def dinov2_file(config: ViTConfig) -> JSONObject:
    """Returns what `config.json` says of the network (without classes and preprocessing)."""
    ratios = range(1, 1 + 2 * config.intermediate_size // config.hidden_size)
    said = {key: value for key, value in sizes_file(config).items() if key != "intermediate_size"}
    return {
        "architectures": [_CLASSES[config.layout]],
        "model_type": config.layout,
        "qkv_bias": True,
        **said,
        "mlp_ratio": next(r for r in ratios if _inner(r * config.hidden_size, config.gated) == config.intermediate_size),
        "use_swiglu_ffn": config.gated,
        **({"num_register_tokens": config.registers} if config.registers else {}),
        OURS: {"pool": config.pool},
    }


def dinov2_layout(config: ViTConfig) -> Layout:
    """Returns the names of the tensors.

    The head of a network whose features are the class token alone is written with zeros for the mean of the patches, so that
    transformers reads it too.
    """
    body, width = f"{config.layout}.", config.hidden_size
    rules = (
        *layer_rules("head", "classifier"),
        *body_rules(_PARTS, body),
        Rule(r"blocks\.(\d+)\.layer_scale(\d)", rf"{body}encoder.layer.\1.layer_scale\2.lambda1"),
        Rule("registers", f"{body}embeddings.register_tokens"),
    )
    head, mask = "classifier.weight", f"{body}embeddings.mask_token"  # the latter is for pre-training alone

    def read(tensors: Tensors) -> dict[str, np.ndarray]:
        named = with_prefix(tensors, body)
        named.pop(mask, None)
        if config.pool == "token" and head in named and named[head].shape[1:] == (2 * width,):
            named[head] = named[head][:, :width]
        return _GATED.split(named)

    def write(tensors: Tensors) -> dict[str, np.ndarray]:
        named = _GATED.merge(tensors) | {mask: np.zeros((1, width), np.float32)}
        if config.pool == "token":
            named[head] = np.concatenate([named[head], np.zeros_like(named[head])], axis=1)
        return named

    return Layout(rules, read=read, write=write, spell=_GATED.spell)
