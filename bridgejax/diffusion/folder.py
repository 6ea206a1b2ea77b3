"""Generators on disk: folders in the diffusers layout, found, read and written."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from bridgejax.diffusion.networks import Autoencoder, Networks
from bridgejax.errors import UserError, nearest
from bridgejax.identity import TEMPORARY_PREFIX, digest, folder_digest, write_json
from bridgejax.models.clip_text import CLIPTextModel
from bridgejax.models.unet import UNet2DCondition
from bridgejax.models.vae import AutoencoderKL
from bridgejax.models.vae_tiny import VAE_TINY_RULES, AutoencoderTiny
from bridgejax.models.weights import (
    CLIP_TEXT_RULES,
    UNET_LINEAR_RULES,
    UNET_RULES,
    VAE_RULES,
    Rule,
    assign,
    export,
    find_weights,
    modern_vae_names,
    plain_text_names,
    read_tensors,
    save_tensors,
)

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUILTIN = {"builtin:tiny_diffusion": ASSETS / "tiny_diffusion"}
KINDS = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
)
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_VAE_CLASSES: dict[str, tuple[type[Autoencoder], tuple[Rule, ...]]] = {
    "AutoencoderKL": (AutoencoderKL, VAE_RULES),
    "AutoencoderTiny": (AutoencoderTiny, VAE_TINY_RULES),
}
_TEXT_CLASSES = {"CLIPTextModel": False, "CLIPTextModelWithProjection": True}
Put = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Description:
    """What a folder's JSON files say."""

    folder: Path
    index: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoders: tuple[dict[str, Any], ...]
    projections: tuple[bool, ...]
    scheduler: dict[str, Any]
    vae_folder: Path | None = None  # None: vae/ in `folder`

    @property
    def tokenizers(self) -> tuple[Path, ...]:
        """The tokenizers' folders, in the order of the text encoders."""
        return tuple(
            self.folder / name.replace("text_encoder", "tokenizer") for name in TEXT_ENCODERS[: len(self.text_encoders)]
        )


def locate(name: str | Path) -> Path:
    """Returns the folder of a generator: built in, local, or fetched from the hub (only then is there any network).

    Raises:
      UserError: there is no such thing, or the hub could not give it.
    """
    text = str(name)
    if text.startswith("builtin:"):
        if text not in BUILTIN:
            raise UserError(f"generator {text!r} is not built in; there is {', '.join(BUILTIN)}{nearest(text, BUILTIN)}.")
        if not (BUILTIN[text] / "model_index.json").is_file():
            raise UserError(
                f"{text} is not part of this installation ({BUILTIN[text]} is missing); install bridgejax from a full copy."
            )
        return BUILTIN[text]
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{path} is a file; a generator is a folder with a model_index.json.")
    if isinstance(name, Path) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text):
        raise UserError(
            f"there is no generator folder {path}; give a folder with a model_index.json, "
            "'builtin:tiny_diffusion' or a hub name (owner/name)."
        )
    return _fetch(text)


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(f"there is no folder {name}, and hub names need the package huggingface_hub; install it.") from error
    parts = ("unet", "vae", "tokenizer", "tokenizer_2", "scheduler", *TEXT_ENCODERS)
    patterns = ["model_index.json", *(f"{part}/*.{end}" for part in parts for end in ("json", "txt", "safetensors"))]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub raises many kinds, for many causes; the cause is chained
        raise UserError(
            f"there is no folder {name}, and the hub could not give a model of that name ({type(error).__name__}); "
            "check the name, the network and, for gated models, your login."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
      UserError: the file is missing or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; a generator folder has the diffusers layout.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); fetch it again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object.")
    return value


def describe(folder: Path) -> Description:
    """Reads the JSON files of a generator folder.

    Raises:
      UserError: a file is missing, or the pipeline or a component is of a kind that is not supported.
    """
    if not (folder / "model_index.json").exists() and (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        kind = config.get("_class_name") or (config.get("architectures") or [config.get("model_type")])[0]
        raise UserError(
            f"{folder} holds one network ({kind}) and no model_index.json; a generator is a folder in the diffusers layout "
            "with unet/, vae/, text_encoder/, tokenizer/ and scheduler/."
        )
    index = read_json(folder / "model_index.json")
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
    return Description(
        folder=folder,
        index=index,
        unet=read_json(folder / "unet" / "config.json"),
        vae=read_json(folder / "vae" / "config.json"),
        text_encoders=tuple(read_json(folder / name / "config.json") for name in names),
        projections=tuple(projections),
        scheduler=read_json(folder / "scheduler" / "scheduler_config.json"),
    )


def with_vae(description: Description, folder: str | Path) -> Description:
    """Returns the description with another autoencoder.

    Args:
      folder: of the autoencoder, or of a generator with one in vae/.

    Raises:
      UserError: there is none, or its latents do not fit the UNet.
    """
    place = locate(folder)
    place = place / "vae" if (place / "vae" / "config.json").is_file() else place
    return dataclasses.replace(description, vae=read_json(place / "config.json"), vae_folder=place)


def vae_class(config: Mapping[str, Any]) -> tuple[type[Autoencoder], tuple[Rule, ...]]:
    """Returns the class of an autoencoder's config and its weight table.

    Raises:
      UserError: the class is not supported; it is named.
    """
    kind = str(config.get("_class_name") or "AutoencoderKL")
    if kind not in _VAE_CLASSES:
        raise UserError(f"the autoencoder {kind} is not supported; it must be one of {', '.join(_VAE_CLASSES)}.")
    return _VAE_CLASSES[kind]


def unet_rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Returns the weight table of a UNet: its projections are dense layers or 1×1 convolutions."""
    return UNET_LINEAR_RULES if config.get("use_linear_projection") else UNET_RULES


def load_networks(description: Description, dtype: Any, put: Put | None, param_dtype: Any = None) -> Networks:
    """Builds the networks abstractly and fills them from the folder's safetensors.

    Args:
      description: of the folder.
      dtype: of arithmetic. SDXL's autoencoder overflows in half precision and is kept in float32, unless its
        config says `"force_upcast": false`.
      put: places one parameter, as of `bridgejax.mesh.make_put`; paths start with the part's name ("unet."). None means the
        default device.
      param_dtype: of parameters; None means `dtype`.

    Raises:
      UserError: a weights file does not fit its config, or is damaged; file and tensor are named.
    """
    options: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype if param_dtype is None else param_dtype}
    make_vae, vae_rules = vae_class(description.vae)
    vae_options = dict(options)
    xl = description.unet.get("addition_embed_type") == "text_time"
    if xl and make_vae is AutoencoderKL and description.vae.get("force_upcast", True):
        vae_options = {"dtype": jnp.float32, "param_dtype": jnp.float32}

    if (channels := description.unet.get("in_channels", 4)) != (latent := description.vae.get("latent_channels", 4)):
        raise UserError(
            f"{description.folder}: the UNet takes {channels} channels (in_channels) but the autoencoder makes {latent} "
            "(latent_channels); inpainting, editing and upscaling models are not supported, nor is an autoencoder of "
            "another family."
        )

    def fill(part: str, build: Callable[[], Any], rules: Sequence[Rule], rename: Callable[[Any], Any] = dict) -> Any:
        where = description.folder / part
        if part == "vae" and description.vae_folder is not None:
            where = description.vae_folder
        place = None if put is None else lambda path, *rest: put(f"{part}.{path}", *rest)
        return assign(nnx.eval_shape(build), rename(read_tensors(where)), rules, str(where), put=place)

    def text_encoder(config: Mapping[str, Any], projection: bool) -> Callable[[], CLIPTextModel]:
        return lambda: CLIPTextModel(config, projection=projection, rngs=nnx.Rngs(0), **options)

    encoders = [
        fill(name, text_encoder(config, projection), CLIP_TEXT_RULES, plain_text_names)
        for name, config, projection in zip(TEXT_ENCODERS, description.text_encoders, description.projections, strict=False)
    ]
    unet = fill("unet", lambda: UNet2DCondition(description.unet, rngs=nnx.Rngs(0), **options), unet_rules(description.unet))
    vae = fill("vae", lambda: make_vae(description.vae, rngs=nnx.Rngs(0), **vae_options), vae_rules, modern_vae_names)
    return Networks(encoders, unet, vae)


def content_digest(description: Description) -> str:
    """Returns the SHA-256 over the configs, weights and tokenizers of a folder."""
    folder = description.folder
    files = [folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"]
    parts = ("unet",) if description.vae_folder is not None else ("unet", "vae")
    for part in (*parts, *TEXT_ENCODERS[: len(description.text_encoders)]):
        files += [folder / part / "config.json", *find_weights(folder / part)]
    for tokenizer in description.tokenizers:
        files += [file for file in tokenizer.glob("*") if file.suffix in (".json", ".txt")]
    own = folder_digest(folder, [file.relative_to(folder).as_posix() for file in files])
    if (place := description.vae_folder) is None:
        return own
    names = ["config.json", *(file.relative_to(place).as_posix() for file in find_weights(place))]
    return digest([own, folder_digest(place, names)])


def save_folder(
    target: str | Path,
    networks: Networks,
    *,
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    text_encoders: Sequence[Mapping[str, Any]],
    scheduler: Mapping[str, Any],
    tokenizers: Sequence[Path],
    index: Mapping[str, Any] | None = None,
) -> None:
    """Writes a folder in the diffusers layout, whole or not at all; PyTorch diffusers opens it too.

    Args:
      target: a folder that does not exist yet, or is empty.
      networks: what to save, in the dtype of its parameters.
      unet: `config.json` of the UNet; likewise `vae`, `text_encoders` (one each) and `scheduler`.
      tokenizers: a folder with the tokenizer files of each text encoder.
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
        components: dict[str, Any] = {
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
            for file in sorted(tokens.glob("*")):
                if file.suffix in (".json", ".txt"):
                    shutil.copyfile(file, aside / tokenizer / file.name)
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


def parse_dtype(dtype: Any) -> Any:
    """Returns the JAX dtype of a name.

    Raises:
      UserError: it is not one that a generator can run in.
    """
    known = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
    try:
        name = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in known:
        raise UserError(f"dtype {name!r} is not supported; it must be one of {', '.join(known)}{nearest(name, known)}.")
    return known[name]
