"""Which family a single file belongs to, from the names and the shapes of its tensors, each fact checked against the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bridgejax.errors import UserError
from bridgejax.models import original_layout as layout

Tensors = Mapping[str, np.ndarray]

SUPPORTED = "Stable Diffusion 1.x, 2.x and SDXL base"
FAMILY_NAMES = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "xl": "SDXL base"}
# Width of what the UNet attends to in the published models; a model of another size has another.
_CONTEXTS = {768: "sd1", 1024: "sd2", 2048: "xl"}
_ADDED = f"{layout.UNET_PREFIX}label_emb.0.0.weight"

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
    (r"edm_mean", "Playground 2.5"),
    (r"conditioner\.embedders\.0\.model\..*", "the SDXL refiner"),
)
# What is read, but not as a generator: the name, what it is, and what to do with it.
_ELSEWHERE: tuple[tuple[str, str, str], ...] = (
    (
        r".*\.lora_(down|up|A|B)\..*|.*lora\.(down|up)\.weight|(lora_(unet|te\d?)|lycoris)_.*|.*\.(hada_w|lokr_w)\d.*|bundle_emb\..*",
        "a LoRA",
        "give it beside a generator, in loras or after --lora",
    ),
    (
        r"emb_params|clip_[lg]|<.*>",
        "a textual-inversion embedding",
        "give it beside a generator, in embeddings or after --embedding",
    ),
    (r"(encoder|decoder)\.mid\..*", "an autoencoder", "give it beside a generator, as vae or after --vae"),
    (
        r"(down_blocks|encoder\.down_blocks|text_model)\..*",
        "one part of a diffusers folder",
        "give the folder that holds model_index.json",
    ),
)


class TextPlace(NamedTuple):
    """Where a text encoder lies in a file."""

    prefix: str
    open_clip: bool  # whether its tensors go by OpenCLIP's names, else by transformers'


class Family(NamedTuple):
    """A single file's family and what showed it."""

    name: str  # "sd1", "sd2" or "xl"
    texts: tuple[TextPlace, ...]  # its text encoders
    facts: tuple[str, ...]  # what showed the family, one phrase each


class _Fact(NamedTuple):
    families: frozenset[str]  # the families that it allows
    phrase: str


def identify(tensors: Tensors, where: str) -> Family:
    """Returns the family of a file; no array is read, only names and shapes.

    Raises:
      UserError: the file is of another kind, which is named where it is known; or two of its facts disagree: both are named.
    """
    _refuse_others(tensors, where)
    linear = next(
        (
            (name, array.ndim == 2)
            for name, array in tensors.items()
            if name.startswith(layout.UNET_PREFIX) and name.endswith(".proj_in.weight")
        ),
        None,
    )
    attended = next(
        (
            (name, int(array.shape[-1]))
            for name, array in tensors.items()
            if array.ndim == 2 and name.startswith(layout.UNET_PREFIX) and name.endswith(".attn2.to_k.weight")
        ),
        None,
    )
    facts = []
    texts = [name for name in tensors if name.startswith(tuple(_TEXT_FAMILIES)) and not layout.harmless(name)]
    present = {prefix for prefix in _TEXT_FAMILIES if any(name.startswith(prefix) for name in texts)}
    if not present:
        listed = ", ".join(f"{prefix}…" for prefix in _TEXT_FAMILIES if prefix != layout.XL_TEXT_2_PREFIX)
        raise UserError(f"{where} holds no text encoder ({listed}); get the full file, or build a diffusers folder.")
    for prefix in sorted(present):
        families = _TEXT_FAMILIES[prefix]
        # Transformers' names are those of SD 1.x, unless the UNet has the context of SD 2.x.
        if prefix == layout.SD1_TEXT_PREFIX and attended is not None and _CONTEXTS.get(attended[1]) == "sd2":
            families = frozenset({"sd1", "sd2"})
        facts.append(_Fact(families, f"its text encoder is named {prefix}…"))
    if attended is not None and attended[1] in _CONTEXTS:
        facts.append(
            _Fact(frozenset({_CONTEXTS[attended[1]]}), f"its UNet attends to {attended[1]} numbers per token ({attended[0]})")
        )
    if linear is not None:
        families, kind = (frozenset({"sd2", "xl"}), "matrices") if linear[1] else (frozenset({"sd1"}), "1×1 convolutions")
        facts.append(_Fact(families, f"its UNet's projections are {kind} ({linear[0]})"))
    if _ADDED in tensors:
        facts.append(_Fact(frozenset({"xl"}), f"its UNet takes sizes and the pooled text ({_ADDED})"))
    else:
        facts.append(_Fact(frozenset({"sd1", "sd2"}), f"its UNet takes nothing but tokens (it has no {_ADDED})"))
    family = _agreed(facts, where)
    places = tuple(
        TextPlace(prefix, prefix not in (layout.SD1_TEXT_PREFIX, layout.XL_TEXT_PREFIX))
        for prefix in ((layout.XL_TEXT_PREFIX, layout.XL_TEXT_2_PREFIX) if family == "xl" else sorted(present))
    )
    _check_context(tensors, places, attended, where)
    return Family(family, places, tuple(fact.phrase for fact in facts))


_TEXT_FAMILIES: dict[str, frozenset[str]] = {
    layout.SD1_TEXT_PREFIX: frozenset({"sd1"}),
    layout.SD2_TEXT_PREFIX: frozenset({"sd2"}),
    layout.XL_TEXT_PREFIX: frozenset({"xl"}),
    layout.XL_TEXT_2_PREFIX: frozenset({"xl"}),
}


def _agreed(facts: list[_Fact], where: str) -> str:
    """Returns the one family that all facts allow."""
    for number, fact in enumerate(facts):
        for other in facts[:number]:
            if not fact.families & other.families:
                raise UserError(
                    f"{where} does not agree with itself: {other.phrase}, as in {_names(other.families)}, but {fact.phrase}, "
                    f"as in {_names(fact.families)}; it is of a family that is not supported, or put together from two models."
                )
    allowed = frozenset.intersection(*(fact.families for fact in facts))
    if len(allowed) != 1:  # each two agree, but not all
        raise UserError(f"{where} is of none of the supported families ({SUPPORTED}): {'; '.join(f.phrase for f in facts)}.")
    return next(iter(allowed))


def _names(families: frozenset[str]) -> str:
    return " or ".join(FAMILY_NAMES[family] for family in sorted(families))


def _check_context(tensors: Tensors, texts: tuple[TextPlace, ...], attended: tuple[str, int] | None, where: str) -> None:
    """Refuses a UNet that attends to tokens of another width than the text encoders give."""
    widths = {}
    for place in texts:
        table = next(
            (
                name
                for name in tensors
                if name.startswith(place.prefix) and name.endswith(("token_embedding.weight")) and tensors[name].ndim == 2
            ),
            None,
        )
        if table is None:
            return  # told later, as a missing tensor
        widths[table] = int(tensors[table].shape[1])
    if attended is not None and sum(widths.values()) != attended[1]:
        given = " and ".join(f"{width} ({name})" for name, width in widths.items())
        raise UserError(
            f"{where} does not agree with itself: its UNet attends to {attended[1]} numbers per token ({attended[0]}), but its "
            f"text encoder gives {given}; the parts are of two models, get the file again."
        )


def _refuse_others(tensors: Tensors, where: str) -> None:
    """Refuses a file of another kind, by its name where it is known."""

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in tensors)

    for pattern, kind in _OTHERS:
        if kind == "the SDXL refiner" and has("conditioner.embedders.1."):
            continue
        if found := next((name for name in tensors if re.fullmatch(pattern, name)), None):
            raise UserError(f"{where} is {kind} (it holds {found}), which is not supported as a single file; {SUPPORTED} are.")
    for pattern, kind, advice in _ELSEWHERE:
        if found := next((name for name in tensors if re.fullmatch(pattern, name)), None):
            raise UserError(f"{where} is {kind} (it holds {found}), not a generator; {advice}.")
    if not has(layout.UNET_PREFIX):
        ema = " but averaged ones (model_ema); get the file with the plain weights" if has("model_ema.") else ""
        raise UserError(
            f"{where} holds no UNet under original names ({layout.UNET_PREFIX}…){ema or f'; only {SUPPORTED} are read'}."
        )
    channels = tensors.get(f"{layout.UNET_PREFIX}input_blocks.0.0.weight")
    if channels is not None and channels.ndim == 4 and channels.shape[1] != 4:
        task = {9: "inpainting", 8: "image editing (InstructPix2Pix)", 7: "upscaling", 5: "depth to image"}
        what = task.get(channels.shape[1], "another task")
        raise UserError(
            f"{where} takes {channels.shape[1]} latent channels, so it is a model for {what}; only text-to-image "
            f"({SUPPORTED}) is supported."
        )
