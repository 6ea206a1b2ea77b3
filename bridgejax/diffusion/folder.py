"""Generators on disk: folders in the diffusers layout and single files, found, read, changed and written."""

from __future__ import annotations

import dataclasses
import json
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from bridgejax.diffusion.lora import Delta, Merged, lora_list, read_lora
from bridgejax.diffusion.networks import Autoencoder, Networks
from bridgejax.diffusion.single_file import PREDICTIONS, read_single_file
from bridgejax.diffusion.textual_inversion import TOKEN_TABLE, extend_vocabulary
from bridgejax.errors import UserError, nearest
from bridgejax.identity import TEMPORARY_PREFIX, digest, file_digest, folder_digest, write_json
from bridgejax.models.clip_text import CLIPTextModel
from bridgejax.models.hub import fetch, is_hub_name
from bridgejax.models.tokenizer import TokenizerSource, holds_tokenizer
from bridgejax.models.unet import UNet2DCondition
from bridgejax.models.vae import AutoencoderKL
from bridgejax.models.vae_tiny import VAE_TINY_RULES, AutoencoderTiny
from bridgejax.models.weights import (
    CLIP_TEXT_RULES,
    PICKLES,
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
_RENAME: dict[str, Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]] = {"unet": dict, "vae": modern_vae_names}
Put = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Description:
    """What a generator is made of: its configs, where its tensors and tokenizers are, and what is changed at loading.

    Attributes:
      folder: the folder, or the single file.
      index: `model_index.json`; likewise `unet`, `vae`, `text_encoders` (one each) and `scheduler`.
      projections: whether each text encoder has a projection.
      tokenizers: of each text encoder, in order.
      vae_folder: of another autoencoder than the generator's own.
      parts: a single file's tensors, part by part; None: they are read from the folder.
      spelling: what a tensor is called in a single file, part by part.
      deltas: low-rank changes, part → weight → changes.
      tables: token embeddings with learned words, by text encoder; they replace the generator's.
      extras: what `content_digest` takes in besides the files: LoRA files with scales, embeddings, options.
    """

    folder: Path
    index: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoders: tuple[dict[str, Any], ...]
    projections: tuple[bool, ...]
    scheduler: dict[str, Any]
    tokenizers: tuple[TokenizerSource, ...]
    vae_folder: Path | None = None  # None: vae/ in `folder`
    parts: Mapping[str, Mapping[str, np.ndarray]] | None = None
    spelling: Mapping[str, Callable[[str], str]] = dataclasses.field(default_factory=dict)
    deltas: Mapping[str, Mapping[str, Sequence[Delta]]] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def tensors(self, part: str) -> Mapping[str, np.ndarray]:
        """Returns a part's tensors as they are loaded: today's diffusers names (text encoders without `text_model.`)."""
        if self.parts is not None and not (part == "vae" and self.vae_folder is not None):
            tensors: Mapping[str, np.ndarray] = self.parts[part]
        else:
            tensors = _RENAME.get(part, plain_text_names)(read_tensors(self._place(part)))
        if part in self.tables:
            tensors = {**tensors, TOKEN_TABLE: self.tables[part]}
        return Merged(tensors, self.deltas[part]) if part in self.deltas else tensors

    @property
    def scheduler_place(self) -> str:
        """The file that says what the scheduler is, for messages."""
        return str(self.folder if self.parts is not None else self.folder / "scheduler" / "scheduler_config.json")

    def where(self, part: str) -> str:
        """Returns the file or folder of a part's tensors, for messages."""
        return str(self._place(part))

    def _place(self, part: str) -> Path:
        if part == "vae" and self.vae_folder is not None:
            return self.vae_folder
        return self.folder if self.parts is not None else self.folder / part


def locate(name: str | Path) -> Path:
    """Returns the folder or single file of a generator: built in, local, or from the hub (only then is there any network).

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
    if path.suffix in PICKLES:
        raise UserError(
            f"{path} is a pickle, which could run code and is not read; get the .safetensors file of the same model, "
            "or convert it where you trust it."
        )
    if path.suffix == ".safetensors":
        if not path.exists():
            raise UserError(
                f"there is no file {path}; give a .safetensors file, a folder with a model_index.json or a hub name."
            )
        return path
    if path.exists():
        raise UserError(f"{path} is a file; a generator is a folder with a model_index.json, or a .safetensors file.")
    if isinstance(name, Path) or not is_hub_name(text):
        raise UserError(
            f"there is no generator folder {path}; give a folder with a model_index.json, a .safetensors file, "
            "'builtin:tiny_diffusion' or a hub name (owner/name)."
        )
    parts = ("unet", "vae", "tokenizer", "tokenizer_2", "scheduler", *TEXT_ENCODERS)
    endings = ("json", "txt", "safetensors")
    return fetch(text, ["model_index.json", *(f"{part}/*.{end}" for part in parts for end in endings)])


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
        tokenizers=tuple(TokenizerSource(folder / name.replace("text_encoder", "tokenizer")) for name in names),
    )


def with_vae(description: Description, folder: str | Path) -> Description:
    """Returns the description with another autoencoder.

    Args:
      folder: of the autoencoder, or of a generator with one in vae/.

    Raises:
      UserError: there is none, or its latents do not fit the UNet.
    """
    place = locate(folder)
    if not place.is_dir():
        raise UserError(f"{place} is a file; vae takes a folder with a config.json and safetensors weights.")
    place = place / "vae" if (place / "vae" / "config.json").is_file() else place
    # The folder's tensors go by their own names, not by those of a single file.
    spelling = {part: spell for part, spell in description.spelling.items() if part != "vae"}
    return dataclasses.replace(description, vae=read_json(place / "config.json"), vae_folder=place, spelling=spelling)


def vae_class(config: Mapping[str, Any]) -> tuple[type[Autoencoder], tuple[Rule, ...]]:
    """Returns the class of an autoencoder's config and its weight table.

    Raises:
      UserError: the class is not supported; it is named.
    """
    kind = str(config.get("_class_name") or "AutoencoderKL")
    if kind not in _VAE_CLASSES:
        raise UserError(f"the autoencoder {kind} is not supported; it must be one of {', '.join(_VAE_CLASSES)}.")
    return _VAE_CLASSES[kind]


def find_generator(
    name: str | Path,
    *,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    model_config: Mapping[str, Any] | str | Path | None = None,
    loras: Mapping[str | Path, float] | Sequence[Any] = (),
    embeddings: Mapping[str, str | Path] | None = None,
    vae: str | Path | None = None,
) -> Description:
    """Finds and describes a generator of any published layout, with the changes asked for; no array is loaded yet.

    Args:
      name: `builtin:…`, a folder in the diffusers layout, a hub name, or a single `.safetensors` file.
      tokenizer: for a single file: a folder with a CLIP tokenizer, or with `tokenizer` (and `tokenizer_2`) below it; None
        means those beside the file.
      prediction_type: "epsilon", "v_prediction" or "sample" instead of what the folder says or the file's family is.
      model_config: for a single file: what its tensors do not show (see `bridgejax.diffusion.single_file`).
      loras: (path, scale) pairs or {path: scale}; see `bridgejax.diffusion.lora`.
      embeddings: word → file; see `bridgejax.diffusion.textual_inversion`.
      vae: another autoencoder; see `with_vae`.

    Raises:
      UserError: something is missing, damaged, does not fit or is not supported; it is named.
    """
    path = locate(name)
    if path.is_dir():
        for option, value in (("tokenizer", tokenizer), ("model_config", model_config)):
            if value is not None:
                raise UserError(f"{option} is for single files, but {path} is a folder, which holds its own; leave it out.")
        description = describe(path)
        if prediction_type is not None:
            if prediction_type not in PREDICTIONS:
                raise UserError(
                    f"prediction_type = {prediction_type!r} must be one of {', '.join(PREDICTIONS)}"
                    f"{nearest(str(prediction_type), PREDICTIONS)}."
                )
            scheduler = {**description.scheduler, "prediction_type": prediction_type}
            description = dataclasses.replace(description, scheduler=scheduler, extras={"prediction_type": prediction_type})
    else:
        description = _describe_file(path, tokenizer, prediction_type, model_config)
    pairs = lora_list(loras)
    if pairs:
        description = _with_loras(description, pairs)
    if embeddings:
        description = _with_embeddings(description, embeddings)
    return description if vae is None else with_vae(description, vae)


def _describe_file(
    path: Path, tokenizer: str | Path | None, prediction_type: str | None, model_config: Mapping[str, Any] | str | Path | None
) -> Description:
    """Describes a single file."""
    single = read_single_file(path, prediction_type, model_config)
    return Description(
        folder=path,
        index=single.index,
        unet=single.unet,
        vae=single.vae,
        text_encoders=single.text_encoders,
        projections=single.projections,
        scheduler=single.scheduler,
        tokenizers=_find_tokenizers(path, tokenizer, single.pads),
        parts=single.tensors,
        spelling=single.spelling,
    )


def _find_tokenizers(path: Path, given: str | Path | None, pads: Sequence[str]) -> tuple[TokenizerSource, ...]:
    """Returns the tokenizer of each text encoder of a single file; all use CLIP's vocabulary, but pad differently."""
    root = path.parent if given is None else Path(given).expanduser()
    if given is not None and holds_tokenizer(root):
        return tuple(TokenizerSource(root, pad=pad) for pad in pads)
    first = root / "tokenizer"
    if not holds_tokenizer(first):
        told = f"{root} holds no tokenizer" if given is not None else f"{path} comes without a tokenizer"
        raise UserError(
            f"{told}; give tokenizer=FOLDER with CLIP's vocab.json and merges.txt, or put them in a folder tokenizer "
            "beside the file."
        )
    folders = [first, root / "tokenizer_2"]
    return tuple(
        TokenizerSource(folder if holds_tokenizer(folder) else first, pad=pad)
        for folder, pad in zip(folders, pads, strict=False)
    )


def _with_loras(description: Description, pairs: Sequence[tuple[Path, float]]) -> Description:
    """Returns a description whose weights are changed by LoRA files."""
    names = ("unet", *TEXT_ENCODERS[: len(description.text_encoders)])
    tensors = {part: description.tensors(part) for part in names}
    deltas: dict[str, dict[str, list[Delta]]] = {}
    for path, scale in pairs:
        for part, weights in read_lora(path, scale, tensors, description.unet).items():
            for weight, delta in weights.items():
                deltas.setdefault(part, {}).setdefault(weight, []).append(delta)
    listed = [[file_digest(_only_file(path, "pytorch_lora_weights.safetensors")), scale] for path, scale in pairs]
    return dataclasses.replace(description, deltas=deltas, extras={**description.extras, "loras": listed})


def _with_embeddings(description: Description, embeddings: Mapping[str, str | Path]) -> Description:
    """Returns a description whose text encoders know more words."""
    names = TEXT_ENCODERS[: len(description.text_encoders)]
    files = {word: Path(path).expanduser() for word, path in embeddings.items()}
    tables = []
    for part in names:
        tensors = description.tensors(part)
        if TOKEN_TABLE not in tensors:
            raise UserError(
                f"{description.where(part)}: tensor {TOKEN_TABLE} is missing; the file is not complete, get it again."
            )
        tables.append(tensors[TOKEN_TABLE])
    tokenizers, bigger, configs = extend_vocabulary(description.tokenizers, tables, description.text_encoders, files)
    digests = {word: file_digest(_only_file(path, "learned_embeds.safetensors")) for word, path in files.items()}
    return dataclasses.replace(
        description,
        tokenizers=tokenizers,
        text_encoders=configs,
        tables=dict(zip(names, bigger, strict=True)),
        extras={**description.extras, "embeddings": digests},
    )


def _only_file(path: Path, name: str) -> Path:
    return path / name if path.is_dir() else path


def unet_rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Returns the weight table of a UNet: its projections are dense layers or 1×1 convolutions."""
    return UNET_LINEAR_RULES if config.get("use_linear_projection") else UNET_RULES


def load_networks(description: Description, dtype: Any, put: Put | None, param_dtype: Any = None) -> Networks:
    """Builds the networks abstractly and fills them from the folder's safetensors.

    Args:
      description: of the generator.
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

    def fill(part: str, build: Callable[[], Any], rules: Sequence[Rule]) -> Any:
        place = None if put is None else lambda path, *rest: put(f"{part}.{path}", *rest)
        spell = description.spelling.get(part, str)
        return assign(nnx.eval_shape(build), description.tensors(part), rules, description.where(part), put=place, spell=spell)

    def text_encoder(config: Mapping[str, Any], projection: bool) -> Callable[[], CLIPTextModel]:
        return lambda: CLIPTextModel(config, projection=projection, rngs=nnx.Rngs(0), **options)

    encoders = [
        fill(name, text_encoder(config, projection), CLIP_TEXT_RULES)
        for name, config, projection in zip(TEXT_ENCODERS, description.text_encoders, description.projections, strict=False)
    ]
    unet = fill("unet", lambda: UNet2DCondition(description.unet, rngs=nnx.Rngs(0), **options), unet_rules(description.unet))
    vae = fill("vae", lambda: make_vae(description.vae, rngs=nnx.Rngs(0), **vae_options), vae_rules)
    return Networks(encoders, unet, vae)


def content_digest(description: Description) -> str:
    """Returns the SHA-256 over all that decides a generator's pictures: configs, weights, tokenizers, LoRA files and their
    scales, learned words, another autoencoder."""
    folder = description.folder
    if description.parts is None:
        files = [folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"]
        parts = ("unet", "vae") if description.vae_folder is None else ("unet",)
        for part in (*parts, *TEXT_ENCODERS[: len(description.text_encoders)]):
            files += [folder / part / "config.json", *find_weights(folder / part)]
        for tokenizer in description.tokenizers:
            files += _tokenizer_files(tokenizer)
        base = folder_digest(folder, [file.relative_to(folder).as_posix() for file in files])
    else:
        configs = {name: getattr(description, name) for name in ("index", "unet", "vae", "text_encoders", "scheduler")}
        base = digest(
            {
                "file": file_digest(folder),
                "configs": configs,
                "tokenizers": [
                    [folder_digest(source.folder, [file.name for file in _tokenizer_files(source)]), source.pad]
                    for source in description.tokenizers
                ],
            }
        )
    if (place := description.vae_folder) is not None:
        names = ["config.json", *(file.relative_to(place).as_posix() for file in find_weights(place))]
        base = digest([base, folder_digest(place, names)])
    return digest({"base": base, **description.extras}) if description.extras else base


def _tokenizer_files(source: TokenizerSource) -> list[Path]:
    return [file for file in source.folder.glob("*") if file.suffix in (".json", ".txt")]


def save_folder(
    target: str | Path,
    networks: Networks,
    *,
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    text_encoders: Sequence[Mapping[str, Any]],
    scheduler: Mapping[str, Any],
    tokenizers: Sequence[Path | TokenizerSource],
    index: Mapping[str, Any] | None = None,
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
