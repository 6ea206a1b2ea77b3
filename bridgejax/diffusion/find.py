"""Finding a generator of any published layout, with the changes that a user asks for; no array is loaded yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from bridgejax.diffusion.folder import read_folder
from bridgejax.diffusion.lora import LoraFiles, lora_digest, lora_list, read_lora
from bridgejax.diffusion.lora_changes import Change
from bridgejax.diffusion.single_file import ModelConfig, read_single_file, with_tokenizers, with_vae_file
from bridgejax.diffusion.spec import TEXT_ENCODERS, GeneratorSpec
from bridgejax.diffusion.textual_inversion import Word, bundled_words, extend_vocabulary, read_embedding
from bridgejax.errors import UserError, choices
from bridgejax.files import expanded, read_json_object
from bridgejax.identity import file_digest
from bridgejax.known_names import BUILTIN_GENERATORS, PREDICTION_TYPES
from bridgejax.models.clip_text import TOKEN_TABLE
from bridgejax.models.weight_sources import WeightSources

_PARTS = ("unet", "vae", "tokenizer", "tokenizer_2", "scheduler", *TEXT_ENCODERS)
_GENERATOR_FILES = ("model_index.json", *(f"{part}/*.{end}" for part in _PARTS for end in ("json", "txt", "safetensors")))
# An autoencoder by itself, or the vae/ of a generator.
_VAE_FILES = tuple(
    f"{place}{name}"
    for place in ("", "vae/")
    for name in ("config.json", *(f"diffusion_pytorch_model*.{e}" for e in ("json", "safetensors")))
)
GENERATORS = WeightSources("generator", "a model_index.json", _GENERATOR_FILES, BUILTIN_GENERATORS, single_file=True)
AUTOENCODERS = WeightSources(
    "autoencoder", "a config.json and safetensors weights", _VAE_FILES, BUILTIN_GENERATORS, single_file=True
)


def find_generator(
    name: str | Path,
    *,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    model_config: ModelConfig | None = None,
    loras: LoraFiles = (),
    embeddings: Mapping[str, str | Path] | None = None,
    vae: str | Path | None = None,
    tokenizers: bool = True,
) -> GeneratorSpec:
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
      tokenizers: whether those of a single file are wanted; without, they need not be there.

    Raises:
      UserError: something is missing, damaged, does not fit or is not supported; it is named.
    """
    if prediction_type is not None and prediction_type not in PREDICTION_TYPES:
        raise UserError(f"prediction_type is {prediction_type!r}; {choices(prediction_type, PREDICTION_TYPES)}")
    path = GENERATORS.resolve(name)
    if path.is_dir():
        for option, value in (("tokenizer", tokenizer), ("model_config", model_config)):
            if value is not None:
                raise UserError(f"{option} is for single files, but {path} is a folder, which holds its own; leave it out.")
        spec = read_folder(path, own_vae=vae is None)
        if prediction_type is not None:
            scheduler = {**spec.scheduler, "prediction_type": prediction_type}
            spec = dataclasses.replace(
                spec, scheduler=scheduler, extras={"prediction_type": prediction_type}, prediction="as asked for"
            )
    else:
        spec = read_single_file(path, prediction_type, model_config, own_vae=vae is None)
        spec = with_tokenizers(spec, tokenizer) if tokenizers else spec
    pairs = lora_list(loras)
    if pairs:
        spec = _with_loras(spec, pairs)
    if pairs or embeddings:
        spec = _with_words(spec, embeddings or {}, [path for path, _ in pairs])
    return spec if vae is None else with_vae(spec, vae)


def with_vae(spec: GeneratorSpec, folder: str | Path) -> GeneratorSpec:
    """Returns the spec with another autoencoder.

    Args:
      folder: of the autoencoder, or of a generator with one in vae/; the hub name of either; or a single `.safetensors` file of
        either.

    Raises:
      UserError: there is none, or its latents do not fit the UNet.
    """
    place = AUTOENCODERS.resolve(folder)
    if place.is_file():
        return with_vae_file(spec, place)
    place = place / "vae" if (place / "vae" / "config.json").is_file() else place
    if not (place / "config.json").is_file():
        raise UserError(f"{folder} holds no autoencoder; expected a config.json and safetensors weights there or in vae/.")
    return dataclasses.replace(spec, vae=read_json_object(place / "config.json"), vae_place=place, vae_tensors=None)


def _with_loras(spec: GeneratorSpec, pairs: Sequence[tuple[Path, float]]) -> GeneratorSpec:
    """Returns a spec whose weights are changed by LoRA files."""
    names = ("unet", *TEXT_ENCODERS[: len(spec.text_encoders)])
    tensors = {part: spec.tensors(part) for part in names}
    deltas: dict[str, dict[str, list[Change]]] = {}
    for path, scale in pairs:
        for part, weights in read_lora(path, scale, tensors, spec.unet).items():
            for weight, found in weights.items():
                deltas.setdefault(part, {}).setdefault(weight, []).extend(found)
    listed = [[lora_digest(path), scale] for path, scale in pairs]
    return dataclasses.replace(spec, deltas=deltas, extras={**spec.extras, "loras": listed})


def _with_words(spec: GeneratorSpec, embeddings: Mapping[str, str | Path], loras: Sequence[Path]) -> GeneratorSpec:
    """Returns a spec whose text encoders know more words: those given, then those that LoRA files bundle."""
    names = TEXT_ENCODERS[: len(spec.text_encoders)]
    files = {word: expanded(path) for word, path in embeddings.items()}
    tables = []
    for part in names:
        tensors = spec.tensors(part)
        if TOKEN_TABLE not in tensors:
            raise UserError(f"{spec.where(part)}: tensor {TOKEN_TABLE} is missing; the file is not complete, get it again.")
        tables.append(tensors[TOKEN_TABLE])
    widths = [table.shape[1] for table in tables]
    words = [Word(word, read_embedding(path, widths)) for word, path in files.items()]
    # A word that is given by itself is the one that counts.
    words += [word for path in loras for word in bundled_words(path, widths) if word.text not in files]
    if not words:
        return spec
    tokenizers, bigger, configs = extend_vocabulary(spec.tokenizers, tables, spec.text_encoders, words)
    digests = {
        word: file_digest(path / "learned_embeds.safetensors" if path.is_dir() else path) for word, path in files.items()
    }
    return dataclasses.replace(
        spec,
        tokenizers=tokenizers,
        text_encoders=configs,
        tables=dict(zip(names, bigger, strict=True)),
        extras={**spec.extras, "embeddings": digests} if digests else spec.extras,
    )
