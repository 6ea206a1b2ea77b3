"""The generator that a config names, with the changes that its `generator` keys ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridgejax.generator_options import loading_options


def load_generator(config: Any, mesh: Any, words: Mapping[str, Path] | None = None) -> Any:
    """Loads the generator of a checked config onto a mesh, with more words, {word: file}.

    Raises:
      UserError: it is missing, damaged or not supported, or a word does not fit; it is named.
    """
    from bridgejax.diffusion import load_pipeline

    options = loading_options(config.generator)
    options["embeddings"] = {**(options["embeddings"] or {}), **(words or {})} or None
    return load_pipeline(
        config.generator.weights, dtype=config.generator.dtype, mesh=mesh, mesh_rules=config.mesh_rules, **options
    )
