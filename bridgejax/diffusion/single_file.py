"""Generators in one safetensors file under the original names of Stable Diffusion 1.x, 2.x and XL.

The architecture is read off the tensors' names and shapes. What no tensor shows follows the family:

| not in the tensors | SD 1.x | SD 2.x | SDXL base |
|---|---|---|---|
| attention heads of the UNet | 8 | channels / 64 | channels / 64 |
| attention heads of a text encoder | width / 64 | width / 64 | width / 64 |
| groups of a normalisation | 32 | 32 | 32 |
| what the UNet predicts | noise | velocity | noise (velocity if there is a tensor `v_pred`) |
| size of an image | 512 | 768, or 512 when it predicts noise | 1024 |
| scaling factor of the latents | 0.18215 | 0.18215 | 0.13025 |
| scheduler | PNDM | DDIM | Euler |

Of the two kinds of SD 2.x the velocity one (768-v) is the default; for the 512 base say `prediction_type="epsilon"`.
A model of other sizes says so in a model config: an object of parts (`unet`, `vae`, `text_encoder`, `text_encoder_2`,
`scheduler`), each with keys of that part's diffusers config, that are laid over what was derived.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bridgejax.diffusion.scheduler_base import PREDICTIONS
from bridgejax.errors import UserError, nearest
from bridgejax.models import original_layout as layout
from bridgejax.models.weights import read_tensors

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "scheduler")
Tensors = Mapping[str, np.ndarray]

# Files that are no generator of these families, by a name that only they have.
_OTHERS: tuple[tuple[str, str], ...] = (
    (r"(.*\.)?joint_blocks\.\d+\..*", "Stable Diffusion 3"),
    (r"(.*\.)?single_stream_modulation\..*", "FLUX.2"),
    (r"(.*\.)?distilled_guidance_layer\..*", "Chroma"),
    (r"(.*\.)?double_blocks\.\d+\.img_attn\..*", "FLUX.1"),
    (r"(.*\.)?double_layers\.\d+\.attn\.w[12]q\..*", "AuraFlow"),
    (r"clip_txt_mapper\..*|down_blocks\.\d+\.\d+\.channelwise\..*", "Stable Cascade"),
    (r"(.*\.)?cap_embedder\.\d+\..*", "Lumina"),
    (r"(.*\.)?patchify_proj\.weight", "LTX-Video"),
    (r"(.*\.)?head\.modulation", "Wan"),
    (r"txt_in\.individual_token_refiner\..*", "HunyuanVideo"),
    (r"(.*\.)?(temporal_transformer|motion_modules|time_stack)\..*", "a video model (AnimateDiff or Stable Video Diffusion)"),
    (r"(control_model|controlnet_cond_embedding|input_hint_block)\..*", "a ControlNet"),
    (r".*\.lora_(down|up|A|B)\..*|.*lora\.(down|up)\.weight|lora_unet_.*", "a LoRA, which goes into `loras`"),
    (r"emb_params|clip_[lg]", "a textual-inversion embedding, which goes into `embeddings`"),
    (r"edm_mean", "Playground 2.5"),
    (r"conditioner\.embedders\.0\.model\..*", "the SDXL refiner"),
    (r"(down_blocks|encoder\.down_blocks|text_model)\..*", "one part of a diffusers folder; give the folder that holds it"),
    (r"(encoder|decoder)\.mid\..*", "an autoencoder alone"),
)
# The published configs of all three families hold these, whichever scheduler they name, so that another sampler made from
# them does not clip latents at 1. All but clip_sample stand in diffusers' `SCHEDULER_DEFAULT_CONFIG` for single files too.
_SAMPLERS = {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@dataclasses.dataclass(frozen=True)
class SingleFile:
    """A generator read from one file: diffusers configs, and tensors under diffusers names, part by part."""

    index: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoders: tuple[dict[str, Any], ...]
    projections: tuple[bool, ...]
    scheduler: dict[str, Any]
    tensors: dict[str, dict[str, np.ndarray]]  # part → diffusers name (text encoders without `text_model.`) → array
    spelling: dict[str, Callable[[str], str]]  # part → what a diffusers name is called in the file
    pads: tuple[str, ...]  # how each text encoder's prompts are padded: "end" (the end token) or "zero" (token 0)


def read_single_file(
    path: Path, prediction_type: str | None = None, model_config: Mapping[str, Any] | str | Path | None = None
) -> SingleFile:
    """Reads a generator from one file; the arrays stay on disk (mapped) until they are used.

    Args:
      path: a safetensors file.
      prediction_type: "epsilon", "v_prediction" or "sample"; None means the family's (see above).
      model_config: what the tensors do not show, or a JSON file of it; None means `NAME.config.json` beside
        `NAME.safetensors` if there is one.

    Raises:
      UserError: the file is damaged, of another architecture, or not complete; or an option does not fit.
    """
    where = str(path)
    tensors = {name: array for name, array in read_tensors(path).items()}
    family = _family(tensors, where)
    overlay = _overlay(path, model_config)
    parts: dict[str, dict[str, np.ndarray]] = {}
    spelling: dict[str, Callable[[str], str]] = {}

    own = {name: array for name, array in tensors.items() if not layout.IGNORED.fullmatch(name)}
    prefixes = [layout.UNET_PREFIX, layout.VAE_PREFIX, *(prefix for prefix, _ in _TEXT[family])]
    inside: dict[str, dict[str, np.ndarray]] = {prefix: {} for prefix in prefixes}
    strange = []
    for name, array in own.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None:
            strange.append(name)
        else:
            inside[prefix][name.removeprefix(prefix)] = array
    if strange:
        raise layout.no_place(where, strange)

    scheduler = _scheduler(family, tensors, prediction_type, where) | overlay["scheduler"]
    velocity = scheduler["prediction_type"] == "v_prediction"

    texts = []
    for name, (prefix, open_clip) in zip(("text_encoder", "text_encoder_2"), _TEXT[family], strict=False):
        read = _open_clip if open_clip else _clip
        config, parts[name], spelling[name] = read(inside[prefix], prefix, where, family)
        texts.append(_check_heads({**config, **overlay[name]}, name, where))
    pooled = texts[-1]["projection_dim"]

    config, table = _unet(inside[layout.UNET_PREFIX], where, family, pooled, velocity)
    unet = _check_unet({**config, **overlay["unet"]}, where)
    parts["unet"] = layout.translate(inside[layout.UNET_PREFIX], table, layout.UNET_PREFIX, where)
    spelling["unet"] = _speller(table, layout.UNET_PREFIX)

    config, table = _vae(inside[layout.VAE_PREFIX], where, family, int(unet["sample_size"]))
    vae = _check_groups({**config, **overlay["vae"]}, "vae", where)
    if "scale_factor" in tensors and tensors["scale_factor"].size == 1:
        vae["scaling_factor"] = overlay["vae"].get("scaling_factor", float(tensors["scale_factor"].reshape(())))
    renamed = layout.translate(inside[layout.VAE_PREFIX], table, layout.VAE_PREFIX, where)
    parts["vae"] = {name: _dense(name, array) for name, array in renamed.items()}
    spelling["vae"] = _speller(table, layout.VAE_PREFIX)

    kind = "StableDiffusionXLPipeline" if family == "xl" else "StableDiffusionPipeline"
    index: dict[str, Any] = {"_class_name": kind, "_diffusers_version": "0.42.1"}
    if family == "xl":
        index["force_zeros_for_empty_prompt"] = True
    return SingleFile(
        index=index,
        unet=unet,
        vae=vae,
        text_encoders=tuple(texts),
        projections=(False, True)[: len(texts)],
        scheduler=scheduler,
        tensors=parts,
        spelling=spelling,
        pads=tuple("zero" if open_clip else "end" for _, open_clip in _TEXT[family]),
    )


_TEXT: dict[str, tuple[tuple[str, bool], ...]] = {
    "sd1": ((layout.SD1_TEXT_PREFIX, False),),
    "sd2": ((layout.SD2_TEXT_PREFIX, True),),
    "xl": ((layout.XL_TEXT_PREFIX, False), (layout.XL_TEXT_2_PREFIX, True)),
}


def _family(tensors: Tensors, where: str) -> str:
    """Returns "sd1", "sd2" or "xl".

    Raises:
      UserError: the file is of another kind; it is named where it is known.
    """
    supported = "Stable Diffusion 1.x, 2.x and SDXL base"

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in tensors)

    for pattern, kind in _OTHERS:
        if kind == "the SDXL refiner" and has("conditioner.embedders.1."):
            continue
        if found := next((name for name in tensors if re.fullmatch(pattern, name)), None):
            raise UserError(f"{where} is {kind} (it holds {found}), which is not supported as a single file; {supported} are.")
    if not has(layout.UNET_PREFIX):
        ema = " but averaged ones (model_ema); get the file with the plain weights" if has("model_ema.") else ""
        raise UserError(
            f"{where} holds no UNet under original names ({layout.UNET_PREFIX}…){ema or f'; only {supported} are read'}."
        )
    channels = tensors.get(f"{layout.UNET_PREFIX}input_blocks.0.0.weight")
    if channels is not None and channels.ndim == 4 and channels.shape[1] != 4:
        task = {9: "inpainting", 8: "image editing (InstructPix2Pix)", 7: "upscaling", 5: "depth to image"}
        what = task.get(channels.shape[1], "another task")
        raise UserError(
            f"{where} takes {channels.shape[1]} latent channels, so it is a model for {what}; only text-to-image "
            f"({supported}) is supported."
        )
    for family, ((prefix, _), *_more) in reversed(_TEXT.items()):
        if has(prefix):
            return family
    expected = ", ".join(f"{prefix}…" for ((prefix, _), *_) in _TEXT.values())
    raise UserError(f"{where} holds no text encoder ({expected}); get the full file, or build a diffusers folder.")


def _overlay(path: Path, given: Mapping[str, Any] | str | Path | None) -> dict[str, dict[str, Any]]:
    """Returns the model config, one object per part."""
    source: Any = given
    name = "model_config"
    if given is None:
        beside = path.with_name(f"{path.stem}.config.json")
        source = beside if beside.is_file() else {}
    if isinstance(source, (str, Path)):
        name = str(source)
        try:
            source = json.loads(Path(source).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{name} is missing; a model config is a JSON object of parts ({', '.join(PARTS)}).") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{name} is not valid JSON ({error}).") from error
    if not isinstance(source, Mapping) or any(not isinstance(value, Mapping) for value in source.values()):
        raise UserError(f"{name} must be an object of parts ({', '.join(PARTS)}), each an object of config keys.")
    for part in source:
        if part not in PARTS:
            raise UserError(f"{name}: {part!r} is no part of a generator; there are {', '.join(PARTS)}{nearest(part, PARTS)}.")
    return {part: dict(source.get(part, {})) for part in PARTS}


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


def _unet(tensors: Tensors, where: str, family: str, pooled: int, velocity: bool) -> tuple[dict[str, Any], layout.NameTable]:
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
    middle = _count(tensors, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    # The middle has the depth of the last entry; a level without attention has no depth of its own.
    depths = [max(depth, 1) for depth in depths]
    if not attends[-1]:
        depths[-1] = max(middle, 1)
    heads: Any = 8 if family == "sd1" else [max(width // 64, 1) for width in channels]
    config: dict[str, Any] = {
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
    return config, layout.unet_table(counts, attends)


def _vae(tensors: Tensors, where: str, family: str, sample_size: int) -> tuple[dict[str, Any], layout.NameTable]:
    """Returns the config and the names of the autoencoder."""

    def need(name: str) -> np.ndarray:
        return _need(tensors, name, layout.VAE_PREFIX, where, 4)

    levels = _count(tensors, r"encoder\.down\.(\d+)\.")
    layers = _count(tensors, r"encoder\.down\.0\.block\.(\d+)\.")
    channels = [int(need(f"encoder.down.{level}.block.0.conv1.weight").shape[0]) for level in range(levels)]
    config: dict[str, Any] = {
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


def _dense(name: str, array: np.ndarray) -> np.ndarray:
    """Returns the weight of an attention projection as a matrix; the original has 1×1 convolutions."""
    if re.search(r"attentions\.\d+\.to_(q|k|v|out\.0)\.weight$", name) and array.ndim > 2 and set(array.shape[2:]) == {1}:
        return array.reshape(array.shape[:2])
    return array


def _text_config(embedding: np.ndarray, positions: int, layers: int, inner: int) -> dict[str, Any]:
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


def _clip(
    tensors: Tensors, prefix: str, where: str, family: str
) -> tuple[dict[str, Any], dict[str, np.ndarray], Callable[[str], str]]:
    """Returns config, tensors and spelling of a text encoder under transformers' names (OpenAI's CLIP)."""
    wrap = "text_model." if any(name.startswith("text_model.") for name in tensors) else ""
    plain = {name.removeprefix(wrap): array for name, array in tensors.items()}
    layers = _count(plain, r"encoder\.layers\.(\d+)\.")

    def need(name: str) -> np.ndarray:
        return _need(plain, name, prefix + wrap, where, 2)

    positions = need("embeddings.position_embedding.weight").shape[0]
    inner = need("encoder.layers.0.mlp.fc1.weight").shape[0]
    config = _text_config(need("embeddings.token_embedding.weight"), int(positions), layers, int(inner))
    config |= {"hidden_act": "quick_gelu", "projection_dim": config["hidden_size"], "pad_token_id": config["eos_token_id"]}
    return config, plain, lambda name: prefix + wrap + name


def _open_clip(
    tensors: Tensors, prefix: str, where: str, family: str
) -> tuple[dict[str, Any], dict[str, np.ndarray], Callable[[str], str]]:
    """Returns config, tensors and spelling of a text encoder under OpenCLIP's names.

    SD 2.x reads the output of the layer before the last, so its last layer and its projection are left out.
    """
    layers = _count(tensors, r"transformer\.resblocks\.(\d+)\.")
    projection = family == "xl"
    kept = dict(tensors)
    if not projection:
        layers -= 1
        kept = {name: array for name, array in tensors.items() if not name.startswith(f"transformer.resblocks.{layers}.")}

    def need(name: str, rank: int = 2) -> np.ndarray:
        return _need(tensors, name, prefix, where, rank)

    positions, inner = need("positional_embedding").shape[0], need("transformer.resblocks.0.mlp.c_fc.weight").shape[0]
    config = _text_config(need("token_embedding.weight"), int(positions), layers, int(inner))
    width = need("text_projection").shape[1] if projection else config["hidden_size"]
    config |= {"hidden_act": "gelu", "projection_dim": int(width), "pad_token_id": 0}
    renamed = layout.translate_open_clip(kept, layers, prefix, where, projection)
    return config, renamed, lambda name: prefix + (layout.open_clip_original(name, layers) or name)


def _speller(table: layout.NameTable, prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + (table.to_original(name) or name)


def _scheduler(family: str, tensors: Tensors, prediction: str | None, where: str) -> dict[str, Any]:
    """Returns the published scheduler config of a family, with the noise levels of the file if it holds others."""
    if prediction is not None and prediction not in PREDICTIONS:
        raise UserError(
            f"prediction_type = {prediction!r} must be one of {', '.join(PREDICTIONS)}{nearest(str(prediction), PREDICTIONS)}."
        )
    default = "v_prediction" if family == "sd2" or "v_pred" in tensors else "epsilon"
    common = {**_BETAS, **_SAMPLERS, "prediction_type": prediction or default, "steps_offset": 1, "timestep_spacing": "leading"}
    config: dict[str, Any] = {
        "sd1": {"_class_name": "PNDMScheduler", **common},
        "sd2": {"_class_name": "DDIMScheduler", **common},
        "xl": {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", "use_karras_sigmas": False, **common},
    }[family]
    if "ztsnr" in tensors:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if family == "sd1":  # PNDM cannot start from pure noise
            config["_class_name"] = "DDIMScheduler"
    if "betas" in tensors:
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


def _check_groups(config: dict[str, Any], part: str, where: str) -> dict[str, Any]:
    groups, channels = config["norm_num_groups"], config["block_out_channels"]
    if not isinstance(groups, int) or groups < 1 or any(width % groups for width in channels):
        raise _unseen(where, part, "norm_num_groups", f"{groups} groups do not divide the {part}'s channels {channels}")
    return config


def _check_unet(config: dict[str, Any], where: str) -> dict[str, Any]:
    heads, channels = config["attention_head_dim"], config["block_out_channels"]
    each = heads if isinstance(heads, (list, tuple)) else [heads] * len(channels)
    if len(each) != len(channels) or any(not count or width % count for width, count in zip(channels, each, strict=True)):
        raise _unseen(where, "unet", "attention_head_dim", f"{heads} attention heads do not divide the channels {channels}")
    return _check_groups(config, "unet", where)


def _check_heads(config: dict[str, Any], part: str, where: str) -> dict[str, Any]:
    heads, width = config["num_attention_heads"], config["hidden_size"]
    if not heads or width % heads:
        raise _unseen(where, part, "num_attention_heads", f"{heads} attention heads do not divide the width {width}")
    return config
