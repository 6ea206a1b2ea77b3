"""What the tensors of a single-file generator show of its networks, as diffusers configs.

What no tensor shows follows the family; see `bridgejax.diffusion.single_file`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models import original_layout as layout

Tensors = Mapping[str, np.ndarray]

# The published configs of all three families hold these, whichever scheduler they name, so that another sampler made from
# them does not clip latents at 1. All but clip_sample stand in diffusers' `SCHEDULER_DEFAULT_CONFIG` for single files too.
_SAMPLERS = {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


READ = ("betas", "v_pred", "ztsnr", "scale_factor", "global_step")  # numbers of training that the configs are read from
_SD2_BASE_STEP = 875000  # at which SD 2.0 base, which predicts noise, was saved; diffusers knows it by this number too
_PREDICTION = "modelspec.prediction_type"


class TextEncoderFile(NamedTuple):
    """A text encoder of a single file."""

    config: JSONObject
    tensors: dict[str, np.ndarray]  # under transformers' names, without `text_model.`
    spell: Callable[[str], str]  # what such a name is called in the file
    ignored: Mapping[str, str] = MappingProxyType({})  # tensors of the file that are not read → what they are


def _need(tensors: Tensors, name: str, prefix: str, where: str, rank: int | None = None) -> np.ndarray:
    """Returns a tensor that a config is read from."""
    if name not in tensors:
        raise UserError(f"{where}: tensor {prefix}{name} is missing; the file is not complete, get it again.")
    array = tensors[name]
    if rank is not None and array.ndim != rank:
        raise UserError(
            f"{where}: tensor {prefix}{name} has shape {list(array.shape)}; expected {rank} axes, "
            "so the file is not of this kind."
        )
    return array


def _count(tensors: Tensors, pattern: str) -> int:
    """Returns one more than the largest number that the pattern's group finds at the start of the names; 0 if none."""
    found = [int(match[1]) for name in tensors if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def unet_config(tensors: Tensors, where: str, family: str, pooled: int, velocity: bool) -> tuple[JSONObject, layout.NameTable]:
    """Returns the config and the names of the UNet."""

    def need(name: str, rank: int | None = None) -> np.ndarray:
        return _need(tensors, name, layout.UNET_PREFIX, where, rank)

    channels: list[int] = []
    counts: list[int] = []
    depths: list[int] = []
    context = 0
    linear = False
    fresh = True
    for number in range(1, _count(tensors, r"input_blocks\.(\d+)\.")):
        block = f"input_blocks.{number}"
        if any(name.startswith(f"{block}.0.op.") for name in tensors):
            fresh = True
            continue
        width = int(need(f"{block}.0.out_layers.3.weight", 4).shape[0])
        depth = _count(tensors, rf"input_blocks\.{number}\.1\.transformer_blocks\.(\d+)\.")
        if fresh:
            channels.append(width)
            counts.append(0)
            depths.append(depth)
        counts[-1] += 1
        fresh = False
        if depth:
            context = int(need(f"{block}.1.transformer_blocks.0.attn2.to_k.weight", 2).shape[1])
            linear = need(f"{block}.1.proj_in.weight").ndim == 2
    if not channels:
        raise UserError(
            f"{where}: tensors {layout.UNET_PREFIX}input_blocks.1.… are missing; the file is not complete, get it again."
        )
    attends = [depth > 0 for depth in depths]
    if not any(attends):
        raise UserError(f"{where}: no level of the UNet attends to the text, so the file is not of a supported kind.")
    _check_depths(tensors, counts, depths, where)
    middle = _count(tensors, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    # The middle has the depth of the last entry; a level without attention has no depth of its own.
    depths = [max(depth, 1) for depth in depths]
    if not attends[-1]:
        depths[-1] = max(middle, 1)
    heads: int | list[int] = 8 if family == "sd1" else [max(width // 64, 1) for width in channels]
    config: JSONObject = {
        "sample_size": {"sd1": 64, "sd2": 96 if velocity else 64, "xl": 128}[family],
        "in_channels": int(need("input_blocks.0.0.weight", 4).shape[1]),
        "out_channels": int(need("out.2.weight", 4).shape[0]),
        "block_out_channels": channels,
        "layers_per_block": counts[0] if len(set(counts)) == 1 else counts,
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "transformer_layers_per_block": 1 if set(depths) == {1} else depths,
        "cross_attention_dim": context,
        "attention_head_dim": heads,
        "use_linear_projection": linear,
        "norm_num_groups": 32,
        "act_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }
    if "label_emb.0.0.weight" in tensors:
        width = int(need("label_emb.0.0.weight", 2).shape[1])
        config |= {
            "addition_embed_type": "text_time",
            "projection_class_embeddings_input_dim": width,
            # The pooled text and six numbers (sizes and crop), each as a sinusoid of this width.
            "addition_time_embed_dim": (width - pooled) // 6,
        }
        if width <= pooled or (width - pooled) % 6:
            raise UserError(
                f"{where} does not agree with itself: tensor {layout.UNET_PREFIX}label_emb.0.0.weight takes {width} numbers, "
                f"but the text encoder's projection gives {pooled}, and what remains is not six equal parts (SDXL base's sizes "
                "and crop); the parts are of two models."
            )
    return config, layout.unet_table(counts, attends)


def _check_depths(tensors: Tensors, counts: Sequence[int], depths: Sequence[int], where: str) -> None:
    """Refuses UNets whose blocks at one level differ, or that have no middle, as distilled ones do: no config here says so.

    Args:
      tensors: of the UNet.
      counts: residual blocks of each level on the way down.
      depths: transformers after the first of them.
      where: the file.
    """
    if not any(name.startswith("middle_block.") for name in tensors):
        raise UserError(
            f"{where} holds no tensors {layout.UNET_PREFIX}middle_block.…: a distilled UNet without a middle block, which is "
            "not supported, or not complete."
        )
    down, up = 1, 0
    for side, levels in (("input", range(len(counts))), ("output", range(len(counts) - 1, -1, -1))):
        for level in levels:
            for _ in range(counts[level] + (side == "output")):
                number = down if side == "input" else up
                found = _count(tensors, rf"{side}_blocks\.{number}\.1\.transformer_blocks\.(\d+)\.")
                if found != depths[level]:
                    raise UserError(
                        f"{where}: block {layout.UNET_PREFIX}{side}_blocks.{number} has {found} transformers, but others at "
                        f"its level have {depths[level]}; distilled UNets (such as SSD-1B) are not supported, or the file is "
                        "not complete."
                    )
                down, up = down + (side == "input"), up + (side == "output")
            down += side == "input"  # the block that halves the sides


def vae_config(
    tensors: Tensors, where: str, family: str, sample_size: int, prefix: str = layout.VAE_PREFIX
) -> tuple[JSONObject, layout.NameTable]:
    """Returns the config and the names of the autoencoder."""

    def need(name: str) -> np.ndarray:
        return _need(tensors, name, prefix, where, 4)

    levels = _count(tensors, r"encoder\.down\.(\d+)\.")
    layers = _count(tensors, r"encoder\.down\.0\.block\.(\d+)\.")
    channels = [int(need(f"encoder.down.{level}.block.0.conv1.weight").shape[0]) for level in range(levels)]
    config: JSONObject = {
        "sample_size": sample_size * 2 ** max(levels - 1, 0),
        "in_channels": int(need("encoder.conv_in.weight").shape[1]),
        "out_channels": int(need("decoder.conv_out.weight").shape[0]),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "latent_channels": int(need("decoder.conv_in.weight").shape[1]),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": 32,
        "act_fn": "silu",
        "scaling_factor": 0.13025 if family == "xl" else 0.18215,
    }
    return config, layout.vae_table(levels, layers)


def as_matrix(name: str, array: np.ndarray) -> np.ndarray:
    """Returns the weight of an attention projection as a matrix; the original has 1×1 convolutions."""
    if re.search(r"attentions\.\d+\.to_(q|k|v|out\.0)\.weight$", name) and array.ndim > 2 and set(array.shape[2:]) == {1}:
        return array.reshape(array.shape[:2])
    return array


def _text_config(embedding: np.ndarray, positions: int, layers: int, inner: int) -> JSONObject:
    vocabulary, width = (int(size) for size in embedding.shape)
    return {
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "max_position_embeddings": positions,
        "layer_norm_eps": 1e-5,
        # CLIP's vocabulary ends with the start and the end token (Radford et al. 2021, section 2.4).
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }


def clip_encoder(tensors: Tensors, prefix: str, where: str, family: str, wanted: int | None = None) -> TextEncoderFile:
    """Returns config, tensors and spelling of a text encoder under transformers' names.

    OpenAI's CLIP, or OpenCLIP's where SD 2.x was saved so. `wanted` is how many layers to read; None means all that are there,
    or those of the published encoder.
    """
    wrap = "text_model." if any(name.startswith("text_model.") for name in tensors) else ""
    spelled: dict[str, str] = {}
    for name in tensors:
        if (other := spelled.setdefault(name.removeprefix(wrap), name)) != name:
            raise UserError(f"{where}: tensors {prefix}{other} and {prefix}{name} are the same; get the file again.")
    plain = {short: tensors[name] for short, name in spelled.items()}
    present = _count(plain, r"encoder\.layers\.(\d+)\.")

    def need(name: str) -> np.ndarray:
        return _need(plain, name, prefix + wrap, where, 2)

    table = need("embeddings.token_embedding.weight")
    layers = _layers(present, table.shape[1], family == "sd2", f"{prefix}{wrap}encoder.layers", where, wanted)
    ignored = {name for name in plain if name.startswith(f"encoder.layers.{layers}.")} if family == "sd2" else set()
    positions = need("embeddings.position_embedding.weight").shape[0]
    inner = need("encoder.layers.0.mlp.fc1.weight").shape[0]
    config = _text_config(table, int(positions), layers, int(inner))
    config |= {"hidden_act": "quick_gelu", "projection_dim": config["hidden_size"], "pad_token_id": config["eos_token_id"]}
    if family == "sd2":
        config |= {"hidden_act": "gelu", "pad_token_id": 0}
    return TextEncoderFile(
        config,
        {name: array for name, array in plain.items() if name not in ignored},
        lambda name: prefix + spelled.get(name, wrap + name),
        {prefix + spelled[name]: _LAST for name in ignored},
    )


_LAST = "the last layer of OpenCLIP's text encoder; SD 2.x reads the one before it"
# Layers of the published text encoders by their width: CLIP ViT-L, OpenCLIP ViT-H and ViT-bigG.
_PUBLISHED_LAYERS = {768: 12, 1024: 24, 1280: 32}


def _layers(present: int, width: int, shortened: bool, name: str, where: str, wanted: int | None) -> int:
    """Returns how many layers of a text encoder are read.

    Args:
      present: how many the file holds.
      width: of the encoder.
      shortened: whether the last one of the published encoder is not read, so that files hold it or not.
      name: of the layers in the file, for the message.
      wanted: what the model config says.

    Raises:
      UserError: the published encoder of this width has another number of layers.
    """
    published = _PUBLISHED_LAYERS.get(width)
    if wanted is not None or published is None:
        return present if wanted is None else wanted
    read = published - 1 if shortened else published
    if present not in {read, published}:
        told = f"{read}, or {published} of which the last is not read" if shortened else str(published)
        raise UserError(
            f"{where} holds {present} layers {name}.…, but the published text encoder of width {width} has {told}; get the "
            "file again, or say the number with model_config={'text_encoder': {'num_hidden_layers': …}}."
        )
    return read


def open_clip_encoder(tensors: Tensors, prefix: str, where: str, family: str, wanted: int | None = None) -> TextEncoderFile:
    """Returns config, tensors and spelling of a text encoder under OpenCLIP's names.

    SD 2.x reads the output of the layer before the last. Files with OpenCLIP's whole encoder hold that last layer and a
    projection, which are left out; files that were converted back from diffusers hold neither. `wanted` is how many layers to
    read; None: the published number, or, in an encoder of another width, all but the last where the projection is there.
    """
    present = _count(tensors, r"transformer\.resblocks\.(\d+)\.")
    projection = family == "xl"

    def need(name: str, rank: int = 2) -> np.ndarray:
        return _need(tensors, name, prefix, where, rank)

    table = need("token_embedding.weight")
    whole = not projection and "text_projection" in tensors
    if wanted is None and whole and table.shape[1] not in _PUBLISHED_LAYERS:
        wanted = present - 1
    layers = _layers(present, table.shape[1], not projection, f"{prefix}transformer.resblocks", where, wanted)
    last = set() if projection else {name for name in tensors if name.startswith(f"transformer.resblocks.{layers}.")}
    kept = {name: array for name, array in tensors.items() if name not in last}
    ignored = {prefix + name: _LAST for name in last}
    if whole:
        ignored[f"{prefix}text_projection"] = "a projection of the whole text, which the UNet does not see"

    positions, inner = need("positional_embedding").shape[0], need("transformer.resblocks.0.mlp.c_fc.weight").shape[0]
    config = _text_config(table, int(positions), layers, int(inner))
    width = need("text_projection").shape[1] if projection else config["hidden_size"]
    config |= {"hidden_act": "gelu", "projection_dim": int(width), "pad_token_id": 0}
    renamed = layout.translate_open_clip(kept, layers, prefix, where, projection)
    return TextEncoderFile(config, renamed, lambda name: prefix + (layout.open_clip_original(name, layers) or name), ignored)


def _in_eight_bits(array: np.ndarray) -> bool:
    """Returns whether a number of training was cast to 8 bits with the weights, which keep one digit of it."""
    return array.dtype.name.startswith("float8")


def scaling_factor(tensors: Tensors, where: str) -> float | None:
    """Returns the scaling factor of the latents if the file holds it."""
    array = tensors.get("scale_factor")
    if array is None or array.size != 1 or _in_eight_bits(array):
        return None
    value = float(array.reshape(()))
    if not 0 < value < np.inf:
        raise UserError(f"{where}: tensor scale_factor is {value}; expected a positive number, get the file again.")
    return value


def prediction_type(family: str, tensors: Tensors, metadata: Mapping[str, str], where: str) -> tuple[str, str]:
    """Returns what the UNet of a file predicts, and what shows it.

    Args:
      family: of the file.
      tensors: all of the file.
      metadata: of the file; training programs write what a model predicts there, as Stability's specification has it.
      where: the file, for messages.

    Raises:
      UserError: a tensor and the metadata do not say the same.
    """
    step = tensors.get("global_step")
    shown: list[tuple[str, str]] = []
    if "v_pred" in tensors:
        shown.append(("v_prediction", "tensor v_pred"))
    # Files in half precision keep three digits of it.
    elif family == "sd2" and step is not None and step.size == 1 and abs(float(step.reshape(())) / _SD2_BASE_STEP - 1) < 0.005:
        shown.append(("epsilon", "tensor global_step, which is that of the 512-pixel base"))
    said = {"epsilon": "epsilon", "v": "v_prediction"}.get(metadata.get(_PREDICTION, ""))
    if said is not None:
        shown.append((said, f"metadata {_PREDICTION}"))
    if len({kind for kind, _ in shown}) > 1:
        (one, by), (other, besides) = shown
        raise UserError(
            f"{where} does not agree with itself: it predicts {one} by its {by}, but {other} by its {besides}; say which with "
            f"prediction_type={one} or {other}."
        )
    if shown:
        return shown[0][0], f"shown by {' and '.join(by for _, by in shown)}"
    if family == "sd2":
        return "v_prediction", "the family's; nothing in the file shows it, so of a 512-pixel base say prediction_type=epsilon"
    return "epsilon", "the family's; nothing in the file shows another"


def scheduler_config(family: str, tensors: Tensors, prediction: str, where: str) -> JSONObject:
    """Returns the published scheduler config of a family, with the noise levels of the file if it holds others."""
    common = {**_BETAS, **_SAMPLERS, "prediction_type": prediction, "steps_offset": 1, "timestep_spacing": "leading"}
    config: JSONObject = {
        "sd1": {"_class_name": "PNDMScheduler", **common},
        "sd2": {"_class_name": "DDIMScheduler", **common},
        "xl": {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", "use_karras_sigmas": False, **common},
    }[family]
    if "ztsnr" in tensors:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if family == "sd1":  # PNDM cannot start from pure noise
            config["_class_name"] = "DDIMScheduler"
    if "betas" in tensors and not _in_eight_bits(tensors["betas"]):
        betas = np.asarray(tensors["betas"], np.float64).reshape(-1)
        expected = np.linspace(_BETAS["beta_start"] ** 0.5, _BETAS["beta_end"] ** 0.5, len(betas)) ** 2  # type: ignore[operator]
        if not np.all((betas > 0) & (betas < 1)):
            raise UserError(f"{where}: tensor betas holds values outside (0, 1); the file is damaged, get it again.")
        if not np.allclose(betas, expected, rtol=0.02):  # half-precision files keep three digits
            config |= {"trained_betas": betas.tolist(), "num_train_timesteps": len(betas)}
    return config


def _unseen(where: str, part: str, key: str, why: str) -> UserError:
    return UserError(
        f"{where}: {why}, and {key} cannot be seen in the tensors; say it with model_config={{'{part}': {{'{key}': …}}}} "
        "or in NAME.config.json beside the file."
    )


def check_groups(config: JSONObject, part: str, where: str) -> JSONObject:
    groups, channels = config["norm_num_groups"], config["block_out_channels"]
    if not isinstance(groups, int) or groups < 1 or any(width % groups for width in channels):
        raise _unseen(where, part, "norm_num_groups", f"{groups} groups do not divide the {part}'s channels {channels}")
    return config


def check_unet(config: JSONObject, where: str) -> JSONObject:
    heads, channels = config["attention_head_dim"], config["block_out_channels"]
    each = heads if isinstance(heads, (list, tuple)) else [heads] * len(channels)
    if len(each) != len(channels) or any(not count or width % count for width, count in zip(channels, each, strict=True)):
        raise _unseen(where, "unet", "attention_head_dim", f"{heads} attention heads do not divide the channels {channels}")
    return check_groups(config, "unet", where)


def check_heads(config: JSONObject, part: str, where: str) -> JSONObject:
    heads, width = config["num_attention_heads"], config["hidden_size"]
    if not heads or width % heads:
        raise _unseen(where, part, "num_attention_heads", f"{heads} attention heads do not divide the width {width}")
    return config
