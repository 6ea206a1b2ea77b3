"""The published layouts of vision transformers: timm folders and transformers folders of type vit, deit and clip."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models.activations import checked_activation
from bridgejax.models.config_values import positive_int, positive_number, require
from bridgejax.models.layout import Fused, Layout, Tensors, timm_arguments
from bridgejax.models.vit import ViTConfig, check
from bridgejax.models.weights import Rule, layer_rules, torch_rules

# hidden_size, layers, heads of the published sizes.
_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_TIMM_NAME = re.compile(
    r"(?P<kind>vit|deit)_(?P<size>tiny|small|base|large)(?P<distilled>_distilled)?_patch(?P<patch>8|14|16|32)"
    r"(?P<clip>_clip)?(?P<quick>_quickgelu)?_(?P<image>\d+)"
)
# timm's names of activations (`model_args.act_layer`), and ours.
_TIMM_ACTIVATIONS = {
    "gelu_tanh": "gelu_pytorch_tanh",
    **{name: name for name in ("gelu", "mish", "quick_gelu", "relu", "silu", "swish")},
}
# timm's own defaults lie in its code; this key of ours says where a network differs from them.
OURS = "bridgejax"
_QKV = Fused("qkv", ("q", "k", "v"))


def is_timm_name(name: str) -> bool:
    """Returns whether `name` is a timm architecture that this module reads."""
    match = _TIMM_NAME.fullmatch(name)
    if match is None or (match["quick"] and not match["clip"]):
        return False
    return not match["clip"] if match["kind"] == "deit" else not match["distilled"]


def timm_config(name: str, config: JSONObject, where: str) -> ViTConfig:
    """Returns the network of a timm `config.json` whose architecture `is_timm_name`.

    Raises:
      UserError: an option is not supported; it is named.
    """
    match = _TIMM_NAME.fullmatch(name)
    if match is None:
        raise UserError(f"{where}: architecture {name!r} is not known.")
    width, layers, heads = _SIZES[match["size"]]
    keys = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "act_layer")
    fixed = {"global_pool": "token", "class_token": True, "qkv_bias": True, "pre_norm": bool(match["clip"]), "fc_norm": None}
    arguments = timm_arguments(config, where, keys, fixed)
    require(config, where, {"global_pool": "token"})
    pretrained = config.get("pretrained_cfg", config)
    published = (pretrained.get("input_size") or (3, int(match["image"]), int(match["image"])))[-1]
    width = positive_int(arguments, "embed_dim", where, width)
    ours = config.get(OURS) or {}
    act_layer = arguments.get("act_layer") or ("quick_gelu" if match["quick"] else "gelu")
    checked_activation(act_layer, f"{where}: model_args.act_layer", _TIMM_ACTIVATIONS)
    return check(
        ViTConfig(
            layout="timm",
            name=name,
            image_size=positive_int(arguments, "img_size", where, published),
            patch_size=positive_int(arguments, "patch_size", where, int(match["patch"])),
            hidden_size=width,
            layers=positive_int(arguments, "depth", where, layers),
            heads=positive_int(arguments, "num_heads", where, heads),
            intermediate_size=int(width * positive_number(arguments, "mlp_ratio", f"{where}: model_args", 4.0)),
            activation=_TIMM_ACTIVATIONS[act_layer],
            epsilon=1e-5 if match["clip"] else 1e-6,
            pre_norm=bool(match["clip"]),
            distillation=bool(match["distilled"]),
            both_heads=bool(match["distilled"]),
            antialias=bool(ours.get("antialias", True)),
        ),
        where,
    )


def transformers_sizes(config: JSONObject, where: str, *, patch: int, epsilon: float, activation: str = "gelu") -> ViTConfig:
    """Returns what all vision transformers of transformers have in common, with its defaults for what a config leaves out.

    Args:
      config: of the network, or the part of it that is on images.
      where: its file, for messages.
      patch, epsilon, activation: the defaults that differ between the kinds.

    Raises:
      UserError: a value is missing, wrong or not supported; it is named.
    """
    require(config, where, {"num_channels": 3})
    kind = str(config.get("model_type"))
    return check(
        ViTConfig(
            layout=kind,
            name=kind,
            image_size=positive_int(config, "image_size", where, 224),
            patch_size=positive_int(config, "patch_size", where, patch),
            hidden_size=positive_int(config, "hidden_size", where, 768),
            layers=positive_int(config, "num_hidden_layers", where, 12),
            heads=positive_int(config, "num_attention_heads", where, 12),
            intermediate_size=positive_int(config, "intermediate_size", where, 3072),
            activation=checked_activation(config.get("hidden_act", activation), f"{where}: hidden_act"),
            epsilon=positive_number(config, "layer_norm_eps", where, epsilon),
            antialias=False,
        ),
        where,
    )


def transformers_config(config: JSONObject, where: str) -> ViTConfig:
    """Returns the network of a transformers `config.json` with model_type vit or deit.

    Raises:
      UserError: a value is missing, wrong or not supported; it is named.
    """
    require(config, where, {"qkv_bias": True})
    sizes = transformers_sizes(config, where, patch=16, epsilon=1e-12)
    both = "DeiTForImageClassificationWithTeacher" in (config.get("architectures") or [])
    return replace(sizes, distillation=sizes.layout == "deit", both_heads=both)


def clip_config(config: JSONObject, where: str) -> ViTConfig:
    """Returns the image tower of a transformers `config.json` with model_type clip.

    Raises:
      UserError: a value is wrong or not supported; it is named.
    """
    place = f"{where}: vision_config"
    vision = clip_part(config, "vision_config", where)
    sizes = transformers_sizes(vision, place, patch=32, epsilon=1e-5, activation="quick_gelu")
    width = positive_int(config, "projection_dim", where, 512)
    return replace(sizes, layout="clip", name="clip", pre_norm=True, projection=width)


def clip_part(config: JSONObject, part: str, where: str) -> JSONObject:
    """Returns `vision_config` or `text_config` of a CLIP config; `…_dict` of old files goes before, as in transformers.

    Raises:
      UserError: it is not a JSON object.
    """
    values = [config.get(part) or {}, config.get(f"{part}_dict") or {}]
    if not all(isinstance(value, dict) for value in values):
        raise UserError(f"{where}: {part} must be a JSON object; get the published config.json.")
    return {**values[0], **values[1]}


def timm_tower(config: ViTConfig) -> ViTConfig:
    """Returns the image tower of a CLIP as timm's network of the same parts (without projection)."""

    large = config.hidden_size >= _SIZES["large"][0]
    patch = 14 if large else 16 if config.patch_size == 16 else 32
    image = 336 if large and config.image_size == 336 else 224
    quick = "_quickgelu" if config.activation == "quick_gelu" else ""
    name = f"vit_{'large' if large else 'base'}_patch{patch}_clip{quick}_{image}"
    return replace(config, layout="timm", name=name, projection=0)


def config_file(config: ViTConfig) -> JSONObject:
    """Returns what `config.json` says of the network (without classes and preprocessing), in its layout."""
    if config.layout == "timm":
        usual = timm_config(config.name, {}, "")
        pairs = {
            "img_size": (config.image_size, usual.image_size),
            "patch_size": (config.patch_size, usual.patch_size),
            "embed_dim": (config.hidden_size, usual.hidden_size),
            "depth": (config.layers, usual.layers),
            "num_heads": (config.heads, usual.heads),
            "mlp_ratio": (config.intermediate_size / config.hidden_size, 4.0),
            "act_layer": (_timm_activation(config.activation), _timm_activation(usual.activation)),
        }
        arguments = {key: value for key, (value, default) in pairs.items() if value != default}
        return {
            "architecture": config.name,
            "num_features": config.hidden_size,
            "global_pool": "token",
            **({"model_args": arguments} if arguments else {}),
            **({} if config.antialias else {OURS: {"antialias": False}}),
        }
    parts = sizes_file(config)
    if config.layout == "clip":
        return {**parts, "projection_dim": config.projection}
    heads = "WithTeacher" if config.both_heads else ""
    kind = "ViTForImageClassification" if config.layout == "vit" else f"DeiTForImageClassification{heads}"
    return {"architectures": [kind], "model_type": config.layout, "qkv_bias": True, **parts}


def sizes_file(config: ViTConfig) -> JSONObject:
    """Returns what `config.json` says of `transformers_sizes`."""
    return {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": 3,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": config.activation,
        "layer_norm_eps": config.epsilon,
    }


def _timm_activation(name: str) -> str:
    return "gelu_tanh" if name in ("gelu_new", "gelu_pytorch_tanh") else name


# Inside a block: our names and those of the layouts. timm's fused qkv is cut into q, k and v first.
_PARTS = {
    "timm": {
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        r"self_attn\.q_proj": "attn.qkv.q",
        r"self_attn\.k_proj": "attn.qkv.k",
        r"self_attn\.v_proj": "attn.qkv.v",
        r"self_attn\.out_proj": "attn.proj",
        r"mlp\.fc1": "mlp.fc1",
        r"mlp\.fc2": "mlp.fc2",
    },
    "transformers": {
        "layer_norm1": "layernorm_before",
        "layer_norm2": "layernorm_after",
        r"self_attn\.q_proj": "attention.attention.query",
        r"self_attn\.k_proj": "attention.attention.key",
        r"self_attn\.v_proj": "attention.attention.value",
        r"self_attn\.out_proj": "attention.output.dense",
        r"mlp\.fc1": "intermediate.dense",
        r"mlp\.fc2": "output.dense",
    },
}


def block_rules(parts: Mapping[str, str], place: str) -> list[Rule]:
    """Returns the rules of the blocks: `parts` maps the inner names, `place` is their block with `\\1` for its number."""
    kinds = {ours: "none" if ours.startswith("layer_norm") else "linear" for ours in parts}
    pairs = [layer_rules(rf"blocks\.(\d+)\.{ours}", rf"{place}.{parts[ours]}", kinds[ours]) for ours in parts]
    return [rule for pair in pairs for rule in pair]


def body_rules(parts: Mapping[str, str], body: str) -> list[Rule]:
    """Returns the rules of what transformers' vision transformers have in common behind the prefix `body`: all but the head."""
    place = f"{body}embeddings."
    return [
        *block_rules(parts, rf"{body}encoder.layer.\1"),
        Rule("class_token", f"{place}cls_token"),
        Rule("positions", f"{place}position_embeddings"),
        *layer_rules("patch", f"{place}patch_embeddings.projection", "conv"),
        *layer_rules("norm", f"{body}layernorm", "none"),
    ]


def with_prefix(tensors: Tensors, body: str) -> dict[str, np.ndarray]:
    """Returns the tensors of `body_rules` with the prefix that those of a bare …Model lack."""
    bare = ("embeddings.", "encoder.", "layernorm.")
    return {body + name if name.startswith(bare) else name: array for name, array in tensors.items()}


def layout(config: ViTConfig) -> Layout:
    """Returns the names of the tensors in the config's layout (for "clip": without text)."""
    if config.layout == "timm":
        return _timm_layout()
    return clip_layout() if config.layout == "clip" else _transformers_layout(config)


def _timm_layout() -> Layout:
    rules = (
        *layer_rules(r"head\.cls", "head"),
        *layer_rules(r"head\.dist", "head_dist"),
        *block_rules(_PARTS["timm"], r"blocks.\1"),
        Rule("class_token", "cls_token"),
        Rule("distillation_token", "dist_token"),
        Rule("positions", "pos_embed"),
        *layer_rules("pre_norm", "norm_pre", "none"),
        *torch_rules(*layer_rules("patch", "patch_embed.proj", "conv")),
    )
    return Layout(rules, read=_QKV.split, write=_QKV.merge, spell=_QKV.spell)


def _transformers_layout(config: ViTConfig) -> Layout:
    body = f"{config.layout}."
    rules = (
        *layer_rules("head", "classifier"),
        *layer_rules(r"head\.cls", "cls_classifier"),
        *layer_rules(r"head\.dist", "distillation_classifier"),
        *body_rules(_PARTS["transformers"], body),
        Rule("distillation_token", f"{body}embeddings.distillation_token"),
    )

    def read(tensors: Tensors) -> dict[str, np.ndarray]:
        # The pooler is not what classifiers of this family look at.
        pooler = re.compile(rf"({re.escape(body)})?pooler\.dense\.(weight|bias)")
        return {name: array for name, array in with_prefix(tensors, body).items() if not pooler.fullmatch(name)}

    return Layout(rules, read=read)


def clip_layout() -> Layout:
    """Returns the names of the tensors of a CLIPModel's image side."""
    tower = "vision_model."
    rules = (
        *layer_rules("head", "classifier"),
        Rule(r"projection\.kernel", "visual_projection.weight", "linear"),
        *layer_rules(r"blocks\.(\d+)\.(.+)", rf"{tower}encoder.layers.\1.\2"),
        Rule(r"blocks\.(\d+)\.(.+)\.scale", rf"{tower}encoder.layers.\1.\2.weight"),
        Rule("class_token", f"{tower}embeddings.class_embedding"),
        Rule("positions", f"{tower}embeddings.position_embedding.weight"),
        Rule(r"patch\.kernel", f"{tower}embeddings.patch_embedding.weight", "conv"),
        *layer_rules("pre_norm", f"{tower}pre_layrnorm", "none"),
        *layer_rules("norm", f"{tower}post_layernorm", "none"),
    )
    flat = {f"{tower}embeddings.class_embedding": 1, f"{tower}embeddings.position_embedding.weight": 2}

    def read(tensors: Tensors) -> dict[str, np.ndarray]:
        lifted = dict(tensors)
        for name, rank in flat.items():
            if name in lifted and lifted[name].ndim == rank:
                lifted[name] = lifted[name].reshape((1,) * (3 - rank) + lifted[name].shape)
        return lifted

    def write(tensors: Tensors) -> dict[str, np.ndarray]:
        return {
            name: array.reshape(array.shape[3 - flat[name] :]) if name in flat else array for name, array in tensors.items()
        }

    return Layout(rules, read=read, write=write)
