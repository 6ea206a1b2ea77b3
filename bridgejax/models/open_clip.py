"""CLIP under OpenAI's tensor names: OpenCLIP folders, and OpenAI's own weights as safetensors without any config.

An OpenCLIP folder holds `open_clip_config.json`, `open_clip_model.safetensors` and a tokenizer (`vocab.json` and `merges.txt`,
or `tokenizer.json`). Where the image tower is a vision transformer, config and names are translated to those of a transformers
`CLIPModel`, which is the same network; it is saved as such. A modified ResNet keeps the layout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bridgejax.errors import UserError
from bridgejax.files import JSONObject, check_link, read_json_object
from bridgejax.models.clip_resnet import ModifiedResNetConfig, clip_resnet_layout
from bridgejax.models.clip_text import TextConfig
from bridgejax.models.config_values import positive_int, positive_number, require
from bridgejax.models.layout import Fused, Layout, Tensors
from bridgejax.models.original_layout import NameTable, open_clip_table
from bridgejax.models.safetensors_files import PICKLES, read_tensors
from bridgejax.models.vit_layouts import OURS, clip_layout

OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_PARTS = f"{OPEN_CLIP_CONFIG}, {OPEN_CLIP_WEIGHTS}, and vocab.json with merges.txt or tokenizer.json"
_JOINT = Fused("in_proj", ("q", "k", "v"), "_")
_HEAD = 64  # the usual width of an attention head
# Numbers and buffers beside the weights.
_IGNORED = re.compile(r"(.+\.)?attn_mask|input_resolution|context_length|vocab_size")
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
# Options that change a network, with the only value that is supported; and options without effect on what is read here.
_VISION: JSONObject = {"timm_model_name": None, "ls_init_value": None, "attentional_pool": False, "global_average_pool": False}
_VISION |= {"pool_type": "tok", "no_ln_pre": False, "input_patchnorm": False, "final_ln_after_pool": False}
_VISION |= {"pos_embed_type": "learnable", "act_kwargs": None, "block_type": None, "attn_type": None, "qk_norm": False}
_TEXT: JSONObject = {"hf_model_name": None, "ls_init_value": None, "embed_cls": False, "no_causal_mask": False}
_TEXT |= {"pool_type": "argmax"}
_TEXT |= {"final_ln_after_pool": False, "proj_type": "linear", "proj_bias": False, "act_kwargs": None, "qk_norm": False}
_TEXT |= {"block_type": None, "attn_type": None}
_MODEL = {"multimodal_cfg": None, "audio_cfg": None}
_HARMLESS = re.compile(
    r"(timm|attn_pooler|hf|init|nonscalar)_.+|patch_dropout|output_tokens|tokenizer_kwargs|\w+_id|custom_text|cast_dtype"
)


@dataclass(frozen=True)
class OpenCLIPFolder:
    """What a folder under OpenAI's names says."""

    config: JSONObject  # as the `config.json` of a CLIPModel would say it; of a modified ResNet, without `vision_config`
    resnet: ModifiedResNetConfig | None  # the image tower, if it is a modified ResNet
    weights: Path  # the safetensors file
    size: int  # side of the input
    # mean, std: of the input; None where the folder does not say it
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    ours: JSONObject  # what `save_classifier` wrote of the head


def read_open_clip(folder: Path) -> OpenCLIPFolder:
    """Reads an OpenCLIP folder.

    Raises:
      UserError: a part is missing, or the config is wrong or not supported; it is named.
    """
    file, weights = folder / OPEN_CLIP_CONFIG, folder / OPEN_CLIP_WEIGHTS
    for part in (file, weights):
        if not part.is_file():
            check_link(part)
            pickles = [other.name for other in folder.glob("open_clip_*") if other.suffix in PICKLES]
            note = f" ({pickles[0]} is a pickle, which is not read)" if pickles and part is weights else ""
            raise UserError(f"{part} is missing{note}; an OpenCLIP folder holds {_PARTS}.")
    content = read_json_object(file, "get the published file")
    model, ready = content.get("model_cfg"), content.get("preprocess_cfg") or {}
    if not isinstance(model, dict) or not isinstance(ready, dict):
        raise UserError(f"{file} must hold model_cfg and preprocess_cfg as JSON objects; get the published file.")
    if ready.get("size"):
        ready = {**ready, "size": positive_int(ready, "size", f"{file}: preprocess_cfg")}
    return _folder(model, f"{file}: model_cfg", weights, ready, content.get(OURS) or {})


def find_openai(folder: Path) -> OpenCLIPFolder | None:
    """Returns what a folder without a config holds if its only safetensors file has OpenAI's names, else None.

    Sizes are read off the tensors; heads are 64 wide and activations quick, as in all that OpenAI published.

    Raises:
      UserError: a tensor that tells a size is missing.
    """
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        return None
    try:
        tensors = read_tensors(files[0])
    except UserError:  # the caller then names the missing config
        return None
    if "visual.conv1.weight" not in tensors:
        return None
    try:
        text, positions = tensors["ln_final.weight"].shape[0], tensors["positional_embedding"].shape[0]
        text_cfg = {
            "width": text,
            "heads": max(text // _HEAD, 1),
            "layers": _count(tensors, r"transformer\.resblocks\.(\d+)\..*"),
        }
        text_cfg |= {"context_length": positions, "vocab_size": tensors["token_embedding.weight"].shape[0]}
        embed, stem = tensors["text_projection"].shape[1], tensors["visual.conv1.weight"]
        if "visual.proj" in tensors:
            side = math.isqrt(tensors["visual.positional_embedding"].shape[0] - 1)
            vision: JSONObject = {"width": stem.shape[0], "patch_size": stem.shape[-1], "image_size": side * stem.shape[-1]}
            vision["layers"] = _count(tensors, r"visual\.transformer\.resblocks\.(\d+)\..*")
        else:
            side = math.isqrt(tensors["visual.attnpool.positional_embedding"].shape[0] - 1)
            stages = range(1, 1 + _count(tensors, r"visual\.layer(\d+)\..*", first=1))
            vision = {"width": 2 * stem.shape[0], "image_size": 32 * side}
            vision["layers"] = [_count(tensors, rf"visual\.layer{stage}\.(\d+)\..*") for stage in stages]
    except (KeyError, IndexError) as error:
        raise UserError(f"{files[0]}: the tensor {error}, which tells a size of the CLIP, is missing or misshapen.") from error
    model = {"embed_dim": embed, "vision_cfg": vision, "text_cfg": text_cfg, "quick_gelu": True}
    return _folder(model, str(files[0]), files[0], {}, {})


def _count(tensors: Tensors, pattern: str, first: int = 0) -> int:
    numbers = [int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name))]
    return max(numbers, default=first - 1) + 1 - first


def _folder(model: JSONObject, where: str, weights: Path, ready: JSONObject, ours: JSONObject) -> OpenCLIPFolder:
    _check(model, where, ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu"), _MODEL)
    vision, text = (_part(model, key, where) for key in ("vision_cfg", "text_cfg"))
    places = f"{where}.vision_cfg", f"{where}.text_cfg"
    sizes = ("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "norm_kwargs")
    _check(vision, places[0], sizes, _VISION)
    _check(text, places[1], ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs"), _TEXT)
    act = {"hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu"}
    embed = positive_int(model, "embed_dim", where)
    text_config = {
        **act,
        **_transformer(text, places[1], 512),
        "num_attention_heads": positive_int(text, "heads", places[1], 8),
        "vocab_size": positive_int(text, "vocab_size", places[1], 49408),
        "max_position_embeddings": positive_int(text, "context_length", places[1], 77),
        "eos_token_id": 2,  # transformers' mark for: the end token is the largest id
    }
    TextConfig.read(text_config, places[1])  # for its checks
    image_size, head = positive_int(vision, "image_size", places[0], 224), positive_int(vision, "head_width", places[0], _HEAD)
    config = {"projection_dim": embed, "text_config": text_config}
    depths, width = vision.get("layers", 12), positive_int(vision, "width", places[0], 768)
    resnet = None
    if isinstance(depths, (list, tuple)):
        if not depths or any(isinstance(depth, bool) or not isinstance(depth, int) or depth < 1 for depth in depths):
            raise UserError(
                f"{places[0]}: layers is {depths!r}; expected a number or a list of numbers, get the published file."
            )
        channels = width * 4 * 2 ** (len(depths) - 1)
        resnet = ModifiedResNetConfig(image_size, tuple(depths), width, max(channels // head, 1), embed)
    else:
        config["vision_config"] = {
            **act,
            **_transformer(vision, places[0], 768),
            "model_type": "clip_vision_model",
            "num_attention_heads": max(width // head, 1),
            "patch_size": positive_int(vision, "patch_size", places[0], 16),
            "image_size": image_size,
        }
    size = ready.get("size") or image_size
    return OpenCLIPFolder(config, resnet, weights, size, ready.get("mean"), ready.get("std"), ours)


def _part(model: JSONObject, key: str, where: str) -> JSONObject:
    if not isinstance(model.get(key), dict):
        raise UserError(f"{where}: {key} is {model.get(key)!r}; expected a JSON object, get the published file.")
    return model[key]


def _check(config: JSONObject, where: str, known: tuple[str, ...], fixed: Mapping[str, object]) -> None:
    require(config, where, fixed)
    for key in config:
        if key not in known and key not in fixed and not _HARMLESS.fullmatch(key):
            raise UserError(f"{where}: {key} is not supported, only {', '.join(known)}; take a model without it.")


def _transformer(part: JSONObject, where: str, width: int) -> JSONObject:
    width = positive_int(part, "width", where, width)
    return {
        "hidden_size": width,
        "num_hidden_layers": positive_int(part, "layers", where, 12),
        "intermediate_size": int(width * positive_number(part, "mlp_ratio", where, 4.0)),
        "layer_norm_eps": positive_number(part.get("norm_kwargs") or {}, "eps", f"{where}.norm_kwargs", 1e-5),
    }


def open_clip_layout(resnet: ModifiedResNetConfig | None, text: JSONObject | None, vision: JSONObject | None = None) -> Layout:
    """Returns the layout that reads (and of a modified ResNet writes) the tensors; text tensors get transformers' names.

    Args:
      resnet: the image tower, if it is a modified ResNet.
      text, vision: `text_config` and `vision_config`, where there are such towers.
    """
    table = _table(*((part or {}).get("num_hidden_layers", 0) for part in (vision, text)))
    image = clip_resnet_layout(resnet) if resnet is not None else clip_layout()

    def spell(name: str) -> str:
        # Of the layers cut in three, only the last part of the name is different from that of other layers.
        joint = re.sub(r"\.self_attn\.([qkv])_proj\.", r".attn.in_proj.\1.", name)
        return _JOINT.spell(table.to_original(joint) or joint)

    def read(tensors: Tensors) -> dict[str, np.ndarray]:
        named = {}
        for name, array in _JOINT.split({n.removeprefix("text."): a for n, a in tensors.items()}).items():
            if _IGNORED.fullmatch(name):
                continue
            joint = re.sub(r"\.attn\.in_proj\.([qkv])\.", r".self_attn.\1_proj.", name)
            target = table.to_diffusers(joint) or joint
            named[target] = array.T if target in _TRANSPOSED else array
        return image.read(named)

    def write(tensors: Tensors) -> dict[str, np.ndarray]:
        named = {}
        for name, array in image.write(tensors).items():
            joint = re.sub(r"\.self_attn\.([qkv])_proj\.", r".attn.in_proj.\1.", name)
            named[table.to_original(joint) or joint] = np.ascontiguousarray(array.T) if name in _TRANSPOSED else array
        return _JOINT.merge(named)

    return Layout(image.rules, read=read, write=write, spell=spell)


def _table(vision_layers: int, text_layers: int) -> NameTable:
    """Returns OpenAI's names beside those of a CLIPModel, both towers."""
    text = open_clip_table(text_layers)
    blocks = {original: f"text_model.{name}" for original, name in text.blocks.items()}
    exact = {"positional_embedding": "text_model.embeddings.position_embedding.weight", "text_projection": _TRANSPOSED[1]}
    if vision_layers:
        tower = "vision_model."
        blocks |= {
            "visual.conv1": f"{tower}embeddings.patch_embedding",
            "visual.ln_pre": f"{tower}pre_layrnorm",
            "visual.ln_post": f"{tower}post_layernorm",
        }
        blocks |= {f"visual.transformer.resblocks.{n}": f"{tower}encoder.layers.{n}" for n in range(vision_layers)}
        exact |= {
            "visual.class_embedding": f"{tower}embeddings.class_embedding",
            "visual.positional_embedding": f"{tower}embeddings.position_embedding.weight",
            "visual.proj": _TRANSPOSED[0],
        }
    return NameTable(blocks, text.inner, exact)


def open_clip_file(resnet: ModifiedResNetConfig, text: JSONObject | None, ready: JSONObject, ours: JSONObject) -> JSONObject:
    """Returns the `open_clip_config.json` of a modified ResNet; `text` is None where there is no text tower."""
    vision = {"image_size": resnet.image_size, "layers": list(resnet.depths), "width": resnet.width}
    vision["head_width"] = resnet.channels // resnet.heads
    model: JSONObject = {"embed_dim": resnet.projection, "vision_cfg": vision, "text_cfg": {}}
    if text is not None:
        model["quick_gelu"] = text["hidden_act"] == "quick_gelu"
        model["text_cfg"] = {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
        }
    return {"model_cfg": model, "preprocess_cfg": ready, OURS: ours}
