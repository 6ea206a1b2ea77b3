"""What was decided about a generator's files, in words, and whether its parts belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import jax.numpy as jnp

from bridgejax.diffusion.families import FAMILY_NAMES
from bridgejax.diffusion.spec import TEXT_ENCODERS, GeneratorSpec
from bridgejax.errors import UserError
from bridgejax.files import JSONObject


def decisions(spec: GeneratorSpec) -> str:
    """Returns what was decided, one line each: family, prediction type, text encoders, autoencoder, dtypes, what is ignored.

    Names, shapes and configs are looked at; no array is read.
    """
    unet, vae, scheduler = spec.unet, spec.vae, spec.scheduler
    says = "scheduler_config.json" if "prediction_type" in scheduler else "the default, since scheduler_config.json names none"
    shown = spec.prediction or says
    lines = [
        f"family           {FAMILY_NAMES[family_of(spec)]}",
        *(f"                 {fact}" for fact in spec.facts or _facts(spec)),
        f"prediction type  {scheduler.get('prediction_type', 'epsilon')} ({shown})",
        f"scheduler        {scheduler.get('_class_name')}",
    ]
    for name, config, projection in zip(TEXT_ENCODERS, spec.text_encoders, spec.projections, strict=False):
        text = config.get("text_config", config)
        lines.append(
            f"{name:<16} {text.get('num_hidden_layers', 12)} layers of width {text.get('hidden_size', 512)}, "
            f"{text.get('hidden_act', 'quick_gelu')}, {'with' if projection else 'without'} projection"
        )
    lines += [
        f"unet             attends to {unet.get('cross_attention_dim')} numbers per token; levels of "
        f"{unet.get('block_out_channels')} channels; heads {unet.get('attention_head_dim', 8)}",
        f"vae              {vae.get('_class_name') or 'AutoencoderKL'}, scaling factor {vae.get('scaling_factor', 0.18215)}"
        + (f", from {spec.vae_place}" if spec.vae_place is not None else ""),
    ]
    parts = ("unet", "vae", *TEXT_ENCODERS[: len(spec.text_encoders)])
    lines.append("dtype            " + ", ".join(f"{part} {dtype_of(spec, part)}" for part in parts))
    if spec.tokenizers and (words := spec.tokenizers[0].added):
        lines.append(f"words            {', '.join(words)}")
    ignored = dict(spec.ignored)
    for part in parts:
        if spec.held(part) is None:
            ignored |= {f"{part}: {name}": what for name, what in spec.part_file(part).ignored.items()}
    return "\n".join([*lines, *_grouped(ignored)])


def _facts(spec: GeneratorSpec) -> list[str]:
    """Returns what shows a folder's family, one phrase each."""
    matrices = bool(spec.unet.get("use_linear_projection"))
    added = {"text_time": "sizes and the pooled text", "text": "the text as a whole"}.get(
        str(spec.unet.get("addition_embed_type"))
    )
    return [
        f"its pipeline is {spec.index.get('_class_name')} (model_index.json)",
        f"its UNet's projections are {'matrices' if matrices else '1×1 convolutions'} (use_linear_projection)",
        f"its UNet takes {added or 'nothing but tokens'} (addition_embed_type)",
    ]


def dtype_of(spec: GeneratorSpec, part: str) -> str:
    """Returns the dtype of most numbers of a part's file."""
    counts: Counter[str] = Counter()
    tensors = spec.tensors(part)
    for name in tensors:
        # Changed weights are float32 until they are cast; the others tell.
        if name not in spec.deltas.get(part, {}):
            array = tensors[name]
            counts[jnp.dtype(array.dtype).name] += array.size
    return counts.most_common(1)[0][0] if counts else "float32"


def _grouped(ignored: Mapping[str, str]) -> list[str]:
    """Returns a line for each kind of what is ignored, with the first names."""
    lines = []
    for what in dict.fromkeys(ignored.values()):
        names = sorted(name for name, other in ignored.items() if other == what)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"ignored          {', '.join(names[:3])}{more}: {what}")
    return lines


def family_of(spec: GeneratorSpec) -> str:
    """Returns "sd1", "sd2" or "xl" by a generator's configs."""
    if spec.unet.get("addition_embed_type") == "text_time":
        return "xl"
    return "sd2" if spec.unet.get("use_linear_projection") else "sd1"


def check_parts(spec: GeneratorSpec) -> None:
    """Checks the configs of a generator's parts against each other.

    Raises:
      UserError: they are of different models; both values and where they stand are named.
    """
    unet, place = spec.unet, spec.config_place("unet")
    kind = str(spec.index.get("_class_name"))
    xl = unet.get("addition_embed_type") == "text_time"
    if xl != kind.startswith("StableDiffusionXL"):
        raise UserError(
            f"{spec.folder} does not agree with itself: the pipeline is {kind}, but the UNet's addition_embed_type is "
            f"{unet.get('addition_embed_type')!r} ({place}); the parts are of two models."
        )
    if (outputs := unet.get("out_channels", 4)) != (inputs := unet.get("in_channels", 4)):
        raise UserError(
            f"{place}: the UNet takes {inputs!r} channels (in_channels) but makes {outputs!r} (out_channels); models for "
            "inpainting, editing and upscaling are not supported."
        )
    side = unet.get("sample_size") or 64
    sides = side if isinstance(side, (list, tuple)) and len(side) == 2 else [side]
    if not all(isinstance(length, int) and length > 0 for length in sides):
        raise UserError(
            f"{place}: sample_size = {side!r} is not supported; it must be a positive whole number, or two of them."
        )
    texts = [_text(config) for config in spec.text_encoders]
    widths = [text.get("hidden_size", 512) for text in texts]
    contexts = unet.get("cross_attention_dim", 1280)
    each = contexts if isinstance(contexts, (list, tuple)) else [contexts]
    given = widths if xl else widths[:1]
    if all(isinstance(width, int) for width in [*given, *each]) and {sum(given)} != set(each):
        raise UserError(
            f"{spec.folder} does not agree with itself: the UNet attends to {contexts} numbers per token (cross_attention_dim, "
            f"{place}), but its text encoder gives {' + '.join(map(str, given))} (hidden_size); the parts are of two models."
        )
    added, each_time = unet.get("projection_class_embeddings_input_dim"), unet.get("addition_time_embed_dim", 0)
    pooled = texts[-1].get("projection_dim", 512) if spec.projections[-1] else widths[-1]
    if xl and all(isinstance(n, int) for n in (added, each_time, pooled)) and added != pooled + 6 * each_time:
        raise UserError(
            f"{spec.folder} does not agree with itself: the UNet takes {added} numbers beside the tokens "
            f"(projection_class_embeddings_input_dim, {place}), but the text encoder gives {pooled} and six sizes give "
            f"{each_time} each; the parts are of two models."
        )


def _text(config: JSONObject) -> JSONObject:
    text = config.get("text_config", config)
    return text if isinstance(text, dict) else {}
