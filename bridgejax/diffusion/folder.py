"""Generator folders in the diffusers layout: read and written."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from bridgejax.diffusion.networks import Networks, vae_class
from bridgejax.diffusion.spec import TEXT_ENCODERS, GeneratorSpec
from bridgejax.errors import UserError
from bridgejax.files import TEMPORARY_PREFIX, JSONObject, check_link, read_json_object, write_json
from bridgejax.models.clip_text import CLIP_TEXT_RULES
from bridgejax.models.safetensors_files import save_tensors
from bridgejax.models.tokenizer import TokenizerSource
from bridgejax.models.unet import unet_rules
from bridgejax.models.weights import export

KINDS = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
)
_TEXT_CLASSES = {"CLIPTextModel": False, "CLIPTextModelWithProjection": True}
_HINT = "get the folder again, in the diffusers layout"


def read_folder(folder: Path, *, own_vae: bool = True) -> GeneratorSpec:
    """Reads the JSON files of a generator folder.

    Args:
      folder: in the diffusers layout.
      own_vae: whether its own autoencoder is wanted; without, the folder need not hold one.

    Raises:
      UserError: a file is missing, or the pipeline or a component is of a kind that is not supported.
    """
    if not (folder / "model_index.json").exists() and (folder / "config.json").is_file():
        config = _object(folder / "config.json")
        kind = config.get("_class_name") or (config.get("architectures") or [config.get("model_type")])[0]
        advice = "; beside a generator it is given as vae" if str(kind).startswith("Autoencoder") else ""
        raise UserError(
            f"{folder} holds one network ({kind or config.get('architecture')}) and no model_index.json; a generator is a "
            f"folder in the diffusers layout with unet/, vae/, text_encoder/, tokenizer/ and scheduler/{advice}."
        )
    check_link(folder / "model_index.json")
    if not (folder / "model_index.json").exists():
        inner = [path.name for path in sorted(folder.iterdir()) if (path / "model_index.json").is_file()]
        inner = inner or [path.name for path in sorted(folder.glob("*.safetensors"))]
        if inner:
            more = f" and {len(inner) - 3} more" if len(inner) > 3 else ""
            raise UserError(f"{folder} has no model_index.json, but holds {', '.join(inner[:3])}{more}; give the path of one.")
    index = _object(folder / "model_index.json")
    if index.get("_class_name") not in KINDS:
        raise UserError(
            f"{folder / 'model_index.json'}: the pipeline {index.get('_class_name')!r} "
            f"is not supported; it must be one of {', '.join(KINDS)}."
        )
    names = [name for name in TEXT_ENCODERS if (index.get(name) or [None, None])[1] is not None]
    if not names:
        raise UserError(f"{folder / 'model_index.json'} names no text_encoder; text-to-image needs one.")
    if names[0] != TEXT_ENCODERS[0]:
        raise UserError(
            f"{folder / 'model_index.json'} names no text_encoder, only {names[0]}, as the SDXL refiner does; "
            "it is not supported, take the base model."
        )
    projections = []
    for name in names:
        kind = index[name][1]
        if kind not in _TEXT_CLASSES:
            raise UserError(
                f"{folder / 'model_index.json'}: {name} is a {kind}, which is not "
                f"supported; it must be one of {', '.join(_TEXT_CLASSES)}."
            )
        projections.append(_TEXT_CLASSES[kind])
    check_link(folder / "vae")
    if own_vae and not (folder / "vae").is_dir():
        raise UserError(f"{folder} holds no autoencoder (vae/); give one with vae= or --vae, or {_HINT}.")
    return GeneratorSpec(
        folder=folder,
        index=index,
        unet=_enlarged(_object(folder / "unet" / "config.json"), str(index["_class_name"])),
        vae=_object(folder / "vae" / "config.json") if own_vae else {},
        text_encoders=tuple(_object(folder / name / "config.json") for name in names),
        projections=tuple(projections),
        scheduler=_corrected(_object(folder / "scheduler" / "scheduler_config.json"), str(index["_class_name"])),
        tokenizers=tuple(TokenizerSource(folder / name.replace("text_encoder", "tokenizer")) for name in names),
    )


def _corrected(scheduler: JSONObject, pipeline: str) -> JSONObject:
    """Returns a scheduler's config as the pipelines of Stable Diffusion 1.x and 2.x in diffusers correct it.

    There, steps_offset is 1 and nothing is clipped, whatever an old file says or leaves out. What is filled in for a class's
    default does not pass to another scheduler made from the config; `_use_default_values` lists it, as diffusers does.
    """
    unset = scheduler.get("_use_default_values")
    config = {key: value for key, value in scheduler.items() if not (isinstance(unset, list) and key in unset)}
    config.pop("_use_default_values", None)
    if pipeline not in ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"):
        return config
    filled = [key for key in ("steps_offset", "clip_sample") if key not in config]
    config |= {"steps_offset": 1} if config.get("steps_offset") != 1 else {}
    if config.get("clip_sample", True) is True:
        config["clip_sample"] = False
    return {**config, "_use_default_values": filled} if filled else config


def _enlarged(unet: JSONObject, pipeline: str) -> JSONObject:
    """Returns a UNet's config with the size of images that diffusers takes for those of its versions before 0.9."""
    version = re.match(r"0\.(\d+)\.", str(unet.get("_diffusers_version")))
    old = (
        version is not None
        and int(version[1]) < 9
        and pipeline in ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
    )
    side = unet.get("sample_size")
    return {**unet, "sample_size": 64} if old and isinstance(side, int) and side < 64 else unet


def _object(path: Path) -> JSONObject:
    return read_json_object(path, _HINT)


def save_folder(
    target: str | Path,
    networks: Networks,
    *,
    unet: JSONObject,
    vae: JSONObject,
    text_encoders: Sequence[JSONObject],
    scheduler: JSONObject,
    tokenizers: Sequence[Path | TokenizerSource],
    index: JSONObject | None = None,
) -> None:
    """Writes a folder in the diffusers layout, whole or not at all; PyTorch diffusers opens it too.

    Args:
      target: a folder that does not exist yet, or is empty.
      networks: what to save, in the dtype of its parameters.
      unet: `config.json` of the UNet; likewise `vae`, `text_encoders` (one each) and `scheduler`.
      tokenizers: a folder with the tokenizer files of each text encoder, or a source.
      index: `model_index.json` to start from; None means a plain Stable Diffusion pipeline.

    Raises:
      UserError: the folder holds files already, or cannot be written.
    """
    folder = Path(target)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already; choose another folder for the generator.")
    aside = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}.{secrets.token_hex(4)}")
    try:
        for name in ("unet", "vae", "scheduler"):
            (aside / name).mkdir(parents=True)
        components: JSONObject = {
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", str(vae.get("_class_name") or "AutoencoderKL")],
        }
        write_json(aside / "unet" / "config.json", {**unet, "_class_name": "UNet2DConditionModel"})
        save_tensors(aside / "unet" / "diffusion_pytorch_model.safetensors", export(networks.unet, unet_rules(unet)))
        write_json(aside / "vae" / "config.json", {**vae, "_class_name": components["vae"][1]})
        save_tensors(aside / "vae" / "diffusion_pytorch_model.safetensors", export(networks.vae, vae_class(vae)[1]))
        write_json(aside / "scheduler" / "scheduler_config.json", scheduler)
        for name, model, config, tokens in zip(TEXT_ENCODERS, networks.text_encoders, text_encoders, tokenizers, strict=False):
            kind = "CLIPTextModel" if model.text_projection is None else "CLIPTextModelWithProjection"
            tokenizer = name.replace("text_encoder", "tokenizer")
            components |= {name: ["transformers", kind], tokenizer: ["transformers", "CLIPTokenizer"]}
            (aside / name).mkdir()
            write_json(aside / name / "config.json", {**config, "architectures": [kind]})
            tensors = {
                key if key.startswith("text_projection") else f"text_model.{key}": array
                for key, array in export(model, CLIP_TEXT_RULES).items()
            }
            save_tensors(aside / name / "model.safetensors", tensors)
            (aside / tokenizer).mkdir()
            source = tokens if isinstance(tokens, TokenizerSource) else TokenizerSource(tokens)
            source.save(aside / tokenizer)
        base = dict(index or {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1"})
        # What is not saved must not be looked for.
        absent = {key: [None, None] for key in ("safety_checker", "feature_extractor", "image_encoder")}
        plain = {key: value for key, value in base.items() if not isinstance(value, list)}
        if not str(base["_class_name"]).startswith("StableDiffusionXL"):
            plain["requires_safety_checker"] = False
        else:
            del absent["safety_checker"]
        write_json(aside / "model_index.json", {**plain, **absent, **components})
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    except OSError as error:
        raise UserError(f"{folder} could not be written ({error.strerror}); free space or choose another folder.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
