"""Generators in one safetensors file under the original names of Stable Diffusion 1.x, 2.x and XL.

The architecture is read off the tensors' names and shapes. What no tensor shows follows the family:

| not in the tensors | SD 1.x | SD 2.x | SDXL base |
|---|---|---|---|
| attention heads of the UNet | 8 | channels / 64 | channels / 64 |
| attention heads of a text encoder | width / 64 | width / 64 | width / 64 |
| groups of a normalisation | 32 | 32 | 32 |
| what the UNet predicts (unless tensor `v_pred` or metadata says) | noise | velocity | noise |
| size of an image | 512 | 768, or 512 when it predicts noise | 1024 |
| scaling factor of the latents | 0.18215 | 0.18215 | 0.13025 |
| scheduler | PNDM | DDIM | Euler |

Of the two kinds of SD 2.x the velocity one (768-v) is the default; for the 512 base say `prediction_type="epsilon"`.
A model of other sizes says so in a model config: an object of parts (`unet`, `vae`, `text_encoder`, `text_encoder_2`,
`scheduler`), each with keys of that part's diffusers config, that are laid over what was derived.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from bridgejax.diffusion import single_file_configs as configs
from bridgejax.diffusion.decisions import family_of
from bridgejax.diffusion.families import FAMILY_NAMES, identify
from bridgejax.diffusion.spec import GeneratorSpec
from bridgejax.errors import UserError, choices
from bridgejax.files import JSONObject, expanded, read_json
from bridgejax.models import original_layout as layout
from bridgejax.models.safetensors_files import read_metadata, read_tensors
from bridgejax.models.tokenizer import TokenizerSource, holds_tokenizer

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "scheduler")
ModelConfig: TypeAlias = Mapping[str, JSONObject] | str | Path  # part → config keys, or a JSON file of that


def read_single_file(
    path: Path, prediction_type: str | None = None, model_config: ModelConfig | None = None, *, own_vae: bool = True
) -> GeneratorSpec:
    """Reads a generator from one file, but for its tokenizers; the arrays stay on disk (mapped) until they are used.

    Args:
      path: a safetensors file.
      prediction_type: "epsilon", "v_prediction" or "sample"; None means the family's (see above).
      model_config: what the tensors do not show, or a JSON file of it; None means `NAME.config.json` beside
        `NAME.safetensors` if there is one.
      own_vae: whether its own autoencoder is wanted; without, the file need not hold one.

    Raises:
      UserError: the file is damaged, of another architecture, or not complete; or an option does not fit.
    """
    where = str(path)
    tensors = read_tensors(path)
    found = identify(tensors, where)
    family = found.name
    overlay = _overlay(path, model_config)
    parts: dict[str, Mapping[str, np.ndarray]] = {}
    spelling: dict[str, Callable[[str], str]] = {}

    prefixes = [layout.UNET_PREFIX, layout.VAE_PREFIX, *(place.prefix for place in found.texts)]
    inside: dict[str, dict[str, np.ndarray]] = {prefix: {} for prefix in prefixes}
    strange: list[str] = []
    ignored: dict[str, str] = {}
    for name, array in tensors.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if (what := layout.harmless(name)) is not None:
            ignored |= {} if name in configs.READ else {name: what}
        elif prefix is None:
            strange.append(name)
        else:
            inside[prefix][name.removeprefix(prefix)] = array
    if strange:
        raise layout.no_place(where, strange)

    if asked := overlay["scheduler"].get("prediction_type", prediction_type):
        predicted, shown = asked, "as asked for"
    else:
        predicted, shown = configs.prediction_type(family, tensors, read_metadata(path), where)
    scheduler = configs.scheduler_config(family, tensors, predicted, where) | overlay["scheduler"]
    velocity = scheduler["prediction_type"] == "v_prediction"

    texts = []
    for name, (prefix, open_clip) in zip(("text_encoder", "text_encoder_2"), found.texts, strict=False):
        read = configs.open_clip_encoder if open_clip else configs.clip_encoder
        encoder = read(inside[prefix], prefix, where, family, overlay[name].get("num_hidden_layers"))
        parts[name], spelling[name] = encoder.tensors, encoder.spell
        ignored |= encoder.ignored
        texts.append(configs.check_heads({**encoder.config, **overlay[name]}, name, where))
    pooled = texts[-1]["projection_dim"]

    config, table = configs.unet_config(inside[layout.UNET_PREFIX], where, family, pooled, velocity)
    unet = configs.check_unet({**config, **overlay["unet"]}, where)
    parts["unet"] = layout.translate(inside[layout.UNET_PREFIX], table, layout.UNET_PREFIX, where)
    spelling["unet"] = _speller(table, layout.UNET_PREFIX)

    vae: JSONObject = {}
    if own_vae:
        if not inside[layout.VAE_PREFIX]:
            raise UserError(
                f"{where} holds no autoencoder ({layout.VAE_PREFIX}…); give one of {FAMILY_NAMES[family]}, a folder or a file, "
                "with vae= or --vae."
            )
        held = inside[layout.VAE_PREFIX]
        vae, parts["vae"], spelling["vae"] = _vae(held, layout.VAE_PREFIX, where, family, unet)
        vae = configs.check_groups({**vae, **overlay["vae"]}, "vae", where)
        if "scaling_factor" not in overlay["vae"] and (factor := configs.scaling_factor(tensors, where)) is not None:
            vae["scaling_factor"] = factor

    kind = "StableDiffusionXLPipeline" if family == "xl" else "StableDiffusionPipeline"
    index: JSONObject = {"_class_name": kind, "_diffusers_version": "0.42.1"}
    if family == "xl":
        index["force_zeros_for_empty_prompt"] = True
    return GeneratorSpec(
        folder=path,
        index=index,
        unet=unet,
        vae=vae,
        text_encoders=tuple(texts),
        projections=(False, True)[: len(texts)],
        scheduler=scheduler,
        tokenizers=(),
        parts=parts,
        spelling=spelling,
        facts=found.facts,
        prediction=shown,
        ignored=ignored,
    )


def _vae(
    tensors: Mapping[str, np.ndarray], prefix: str, where: str, family: str, unet: JSONObject
) -> tuple[JSONObject, dict[str, np.ndarray], Callable[[str], str]]:
    """Returns an autoencoder's config, its tensors under diffusers names, and what they are called in the file."""
    config, table = configs.vae_config(tensors, where, family, int(unet.get("sample_size", 64)), prefix)
    renamed = layout.translate(tensors, table, prefix, where)
    return config, {name: configs.as_matrix(name, array) for name, array in renamed.items()}, _speller(table, prefix)


def with_vae_file(spec: GeneratorSpec, file: Path) -> GeneratorSpec:
    """Returns the spec with the autoencoder of a single file under original names.

    Args:
      spec: of any generator; its family says the scaling factor, which such files do not hold.
      file: an autoencoder alone, its names with or without `first_stage_model.`, or a whole generator.

    Raises:
      UserError: the file is damaged, or holds no autoencoder under such names.
    """
    tensors, where = read_tensors(file), str(file)
    prefix = layout.VAE_PREFIX if any(name.startswith(layout.VAE_PREFIX) for name in tensors) else ""
    extras = {name: what for name in tensors if name.startswith(prefix) and (what := layout.harmless(name)) is not None}
    inside = {
        name.removeprefix(prefix): array
        for name, array in tensors.items()
        if name.startswith(prefix) and layout.harmless(name) is None
    }
    if not any(name.startswith(("encoder.down.", "decoder.up.")) for name in inside):
        raise UserError(
            f"{where} holds no autoencoder under original names ({layout.VAE_PREFIX}encoder.down.…, encoder.down.…); of a file "
            "of diffusers, give its folder, with its config.json."
        )
    vae, held, spell = _vae(inside, prefix, where, family_of(spec), spec.unet)
    if (factor := configs.scaling_factor(tensors, where)) is not None:
        vae["scaling_factor"] = factor
    return dataclasses.replace(
        spec,
        vae=vae,
        vae_place=file,
        vae_tensors=held,
        spelling={**spec.spelling, "vae": spell},
        ignored={**spec.ignored, **{f"vae: {name}": what for name, what in extras.items()}},
    )


def _overlay(path: Path, given: ModelConfig | None) -> dict[str, JSONObject]:
    """Returns the model config, one object per part."""
    source: object = given
    name = "model_config"
    if given is None:
        beside = path.with_name(f"{path.stem}.config.json")
        source = beside if beside.is_file() else {}
    if isinstance(source, (str, Path)):
        name = str(source)
        source = read_json(Path(source), f"a model config is a JSON object of parts ({', '.join(PARTS)})")
    if not isinstance(source, Mapping) or any(not isinstance(value, Mapping) for value in source.values()):
        raise UserError(f"{name} must be an object of parts ({', '.join(PARTS)}), each an object of config keys.")
    for part in source:
        if part not in PARTS:
            raise UserError(f"{name}: {part!r} is not a part of a generator; {choices(part, PARTS)}")
    return {part: dict(source.get(part, {})) for part in PARTS}


def with_tokenizers(spec: GeneratorSpec, tokenizer: str | Path | None = None) -> GeneratorSpec:
    """Returns a single file's spec with a tokenizer for each text encoder; all use CLIP's vocabulary, but pad differently.

    Args:
      spec: of `read_single_file`.
      tokenizer: a folder with a CLIP tokenizer, or with `tokenizer` (and `tokenizer_2`) below it; None means those beside the
        file.

    Raises:
      UserError: there is none.
    """
    root = spec.folder.parent if tokenizer is None else expanded(tokenizer)
    folders = [root / "tokenizer", root / "tokenizer_2"]
    if tokenizer is not None and holds_tokenizer(root):
        folders = [root, root]
    elif not holds_tokenizer(folders[0]):
        problem = f"{spec.folder} comes without a tokenizer" if tokenizer is None else f"{root} holds no tokenizer"
        raise UserError(
            f"{problem}; give tokenizer=FOLDER with CLIP's vocab.json and merges.txt, or put them in a folder tokenizer "
            "beside the file."
        )
    sources = [
        TokenizerSource(folder if holds_tokenizer(folder) else folders[0], pad="end" if config["pad_token_id"] else "zero")
        for folder, config in zip(folders, spec.text_encoders, strict=False)
    ]
    return dataclasses.replace(spec, tokenizers=tuple(sources))


def _speller(table: layout.NameTable, prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + (table.to_original(name) or name)
