"""What a generator is made of: its configs, where its tensors and tokenizers are, and what is changed at loading."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bridgejax.diffusion.lora import Merged
from bridgejax.diffusion.lora_changes import Change
from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.identity import digest, file_digest, folder_digest
from bridgejax.models.clip_text import TOKEN_TABLE
from bridgejax.models.safetensors_files import find_weights, read_tensors
from bridgejax.models.tokenizer import TokenizerSource
from bridgejax.models.vae import modern_vae_name, modern_vae_names

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
# What a text encoder's file may hold besides the text encoder: the rest of a CLIP, which transformers passes over too.
_TEXT_EXTRAS = (
    (r"logit_scale|(?:.*\.)?position_ids", "constants"),
    (r"(?:vision_model|visual_projection)\..*", "CLIP's image encoder"),
)
_PROJECTION = (r"(?:text_model\.)?text_projection\.weight", "a projection of the whole text, which the UNet does not see")


class PartFile(NamedTuple):
    """The tensors of one part of a folder."""

    tensors: dict[str, np.ndarray]  # under today's names, text encoders without `text_model.`
    spelled: dict[str, str]  # such a name → the file's
    ignored: dict[str, str]  # tensors that are not read → what they are


@dataclasses.dataclass(frozen=True)
class GeneratorSpec:
    """What a generator is made of: its configs, where its tensors and tokenizers are, and what is changed at loading.

    Attributes:
      folder: the folder, or the single file.
      index: `model_index.json`; likewise `unet`, `vae`, `text_encoders` (one each) and `scheduler`.
      projections: whether each text encoder has a projection.
      tokenizers: of each text encoder, in order.
      vae_place: the folder or single file of another autoencoder than the generator's own.
      vae_tensors: what such a file holds, under diffusers names.
      parts: a single file's tensors, part by part; None: they are read from the folder.
      spelling: what a tensor is called in a single file, part by part.
      deltas: low-rank changes, part → weight → changes.
      tables: token embeddings with learned words, by text encoder; they replace the generator's.
      extras: what `content_digest` takes in besides the files: LoRA files with scales, embeddings, options.
      facts: what showed a single file's family, one phrase each.
      prediction: what showed what the UNet predicts; "": the scheduler's config does.
      ignored: tensors of a single file that are not read → what they are.
    """

    folder: Path
    index: JSONObject
    unet: JSONObject
    vae: JSONObject
    text_encoders: tuple[JSONObject, ...]
    projections: tuple[bool, ...]
    scheduler: JSONObject
    tokenizers: tuple[TokenizerSource, ...]
    vae_place: Path | None = None  # None: vae/ in `folder`
    vae_tensors: Mapping[str, np.ndarray] | None = None
    parts: Mapping[str, Mapping[str, np.ndarray]] | None = None
    spelling: Mapping[str, Callable[[str], str]] = dataclasses.field(default_factory=dict)
    deltas: Mapping[str, Mapping[str, Sequence[Change]]] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    extras: JSONObject = dataclasses.field(default_factory=dict)
    facts: tuple[str, ...] = ()
    prediction: str = ""
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def tensors(self, part: str) -> Mapping[str, np.ndarray]:
        """Returns a part's tensors as they are loaded: today's diffusers names (text encoders without `text_model.`)."""
        tensors = self.held(part)
        if tensors is None:
            tensors = self.part_file(part).tensors
        if part in self.tables:
            tensors = {**tensors, TOKEN_TABLE: self.tables[part]}
        return Merged(tensors, self.deltas[part]) if part in self.deltas else tensors

    def held(self, part: str) -> Mapping[str, np.ndarray] | None:
        """Returns the tensors of a part that comes from a single file; None if it lies in a folder."""
        if part == "vae" and self.vae_place is not None:
            return self.vae_tensors
        return None if self.parts is None else self.parts[part]

    def part_file(self, part: str) -> PartFile:
        """Returns what the folder holds of a part; no array is read yet.

        Raises:
          UserError: the file is missing or damaged, or two of its tensors have the same name today.
        """
        raw, spelled, ignored = read_tensors(self._place(part)), dict[str, str](), dict[str, str]()
        extras: tuple[tuple[str, str], ...] = ()
        if part in TEXT_ENCODERS:
            extras = _TEXT_EXTRAS if self.projections[TEXT_ENCODERS.index(part)] else (*_TEXT_EXTRAS, _PROJECTION)
        for name in raw:
            if what := next((what for pattern, what in extras if re.fullmatch(pattern, name)), None):
                ignored[name] = what
                continue
            today = modern_vae_name(name) if part == "vae" else name
            today = name.removeprefix("text_model.") if part in TEXT_ENCODERS else today
            if (other := spelled.setdefault(today, name)) != name:
                raise UserError(f"{self.where(part)}: tensors {other} and {name} are the same one; get the folder again.")
        kept = {today: raw[name] for today, name in spelled.items()}
        return PartFile(modern_vae_names(kept) if part == "vae" else kept, spelled, ignored)

    def spell(self, part: str, name: str) -> str:
        """Returns how the file writes, or would write, a tensor's name."""
        if self.held(part) is not None:
            return self.spelling[part](name)
        spelled = self.part_file(part).spelled
        if name in spelled:
            return spelled[name]
        wrapped = part in TEXT_ENCODERS and any(value.startswith("text_model.") for value in spelled.values())
        return f"text_model.{name}" if wrapped and not name.startswith("text_projection") else name

    @property
    def scheduler_place(self) -> str:
        """The file that says what the scheduler is, for messages."""
        return str(self.folder if self.parts is not None else self.folder / "scheduler" / "scheduler_config.json")

    def config_place(self, part: str) -> str:
        """The file that a part's config comes from, for messages."""
        if part == "vae" and self.vae_place is not None:
            return str(self.vae_place if self.vae_tensors is not None else self.vae_place / "config.json")
        return f"{self.folder}: {part}" if self.parts is not None else str(self.folder / part / "config.json")

    def where(self, part: str) -> str:
        """Returns the file or folder of a part's tensors, for messages."""
        return str(self._place(part))

    def _place(self, part: str) -> Path:
        if part == "vae" and self.vae_place is not None:
            return self.vae_place
        return self.folder if self.parts is not None else self.folder / part


def content_digest(spec: GeneratorSpec) -> str:
    """Returns the SHA-256 over all that decides a generator's pictures: configs, weights, tokenizers, LoRA files and their
    scales, learned words, another autoencoder."""
    folder = spec.folder
    if spec.parts is None:
        files = [folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"]
        parts = ("unet", "vae") if spec.vae_place is None else ("unet",)
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
    if (place := spec.vae_place) is not None and spec.vae_tensors is not None:
        base = digest([base, file_digest(place), spec.vae])
    elif place is not None:
        names = ["config.json", *(file.relative_to(place).as_posix() for file in find_weights(place))]
        base = digest([base, folder_digest(place, names)])
    return digest({"base": base, **spec.extras}) if spec.extras else base


def _tokenizer_files(source: TokenizerSource) -> list[Path]:
    return [file for file in source.folder.glob("*") if file.suffix in (".json", ".txt")]
