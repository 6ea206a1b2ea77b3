"""What the `generator` keys of a config hand to `load_pipeline`."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from bridgejax.config.file_pairs import scaled_files, word_files
from bridgejax.config.sections import GeneratorSettings


class LoadingOptions(TypedDict):
    """Keywords of `load_pipeline` and `find_generator` beside the weights' name, dtype and mesh."""

    loras: list[tuple[str, float]]
    embeddings: dict[str, str | Path] | None
    vae: str | None
    tokenizer: str | None
    prediction_type: str | None


def loading_options(generator: GeneratorSettings) -> LoadingOptions:
    """Returns the options that a config's `generator` (of `Settings` or of the ConfigDict) names."""
    return {
        "loras": scaled_files(generator.loras, "generator.loras"),
        "embeddings": dict(word_files(generator.words, "generator.words")) or None,
        "vae": generator.vae,
        "tokenizer": generator.tokenizer,
        "prediction_type": generator.prediction_type,
    }
