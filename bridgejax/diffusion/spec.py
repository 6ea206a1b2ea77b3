"""What a generator is made of: its configs, where its tensors and tokenizers are, and what is changed at loading."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bridgejax.diffusion.lora import Delta, Merged
from bridgejax.files import JSONObject
from bridgejax.identity import digest, file_digest, folder_digest
from bridgejax.models.clip_text import TOKEN_TABLE, plain_text_names
from bridgejax.models.safetensors_files import find_weights, read_tensors
from bridgejax.models.tokenizer import TokenizerSource
from bridgejax.models.vae import modern_vae_names

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_RENAME: dict[str, Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]] = {"unet": dict, "vae": modern_vae_names}


@dataclasses.dataclass(frozen=True)
class GeneratorSpec:
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
    index: JSONObject
    unet: JSONObject
    vae: JSONObject
    text_encoders: tuple[JSONObject, ...]
    projections: tuple[bool, ...]
    scheduler: JSONObject
    tokenizers: tuple[TokenizerSource, ...]
    vae_folder: Path | None = None  # None: vae/ in `folder`
    parts: Mapping[str, Mapping[str, np.ndarray]] | None = None
    spelling: Mapping[str, Callable[[str], str]] = dataclasses.field(default_factory=dict)
    deltas: Mapping[str, Mapping[str, Sequence[Delta]]] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    extras: JSONObject = dataclasses.field(default_factory=dict)

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

    def config_place(self, part: str) -> str:
        """The file that a part's config comes from, for messages."""
        if part == "vae" and self.vae_folder is not None:
            return str(self.vae_folder / "config.json")
        return f"{self.folder}: {part}" if self.parts is not None else str(self.folder / part / "config.json")

    def where(self, part: str) -> str:
        """Returns the file or folder of a part's tensors, for messages."""
        return str(self._place(part))

    def _place(self, part: str) -> Path:
        if part == "vae" and self.vae_folder is not None:
            return self.vae_folder
        return self.folder if self.parts is not None else self.folder / part


def content_digest(spec: GeneratorSpec) -> str:
    """Returns the SHA-256 over all that decides a generator's pictures: configs, weights, tokenizers, LoRA files and their
    scales, learned words, another autoencoder."""
    folder = spec.folder
    if spec.parts is None:
        files = [folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"]
        parts = ("unet", "vae") if spec.vae_folder is None else ("unet",)
        for part in (*parts, *TEXT_ENCODERS[: len(spec.text_encoders)]):
            files += [folder / part / "config.json", *find_weights(folder / part)]
        for tokenizer in spec.tokenizers:
            files += _tokenizer_files(tokenizer)
        base = folder_digest(folder, [file.relative_to(folder).as_posix() for file in files])
    else:
        configs = {name: getattr(spec, name) for name in ("index", "unet", "vae", "text_encoders", "scheduler")}
        base = digest(
            {
                "file": file_digest(folder),
                "configs": configs,
                "tokenizers": [
                    [folder_digest(source.folder, [file.name for file in _tokenizer_files(source)]), source.pad]
                    for source in spec.tokenizers
                ],
            }
        )
    if (place := spec.vae_folder) is not None:
        names = ["config.json", *(file.relative_to(place).as_posix() for file in find_weights(place))]
        base = digest([base, folder_digest(place, names)])
    return digest({"base": base, **spec.extras}) if spec.extras else base


def _tokenizer_files(source: TokenizerSource) -> list[Path]:
    return [file for file in source.folder.glob("*") if file.suffix in (".json", ".txt")]
