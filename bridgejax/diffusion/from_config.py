"""The generator of a config: loaded, and what it samples with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jax.sharding import Mesh

from bridgejax.config import loading_options

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from bridgejax.diffusion.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """What an image depends on besides its prompt and its seed; the names are those of a pipeline's arguments."""

    steps: int
    guidance_scale: float
    negative_prompt: str
    scheduler: str | None
    height: int | None
    width: int | None

    @classmethod
    def from_config(cls, config: ConfigDict) -> SamplingOptions:
        """Returns what the keys of `generator` and `prompts` say."""
        generator = config.generator
        return cls(
            steps=generator.steps,
            guidance_scale=float(generator.guidance_scale),
            negative_prompt=config.prompts.negative,
            scheduler=generator.scheduler,
            height=generator.height,
            width=generator.width,
        )


def load_generator(config: ConfigDict, mesh: Mesh | None, embeddings: Mapping[str, Path] | None = None) -> Pipeline:
    """Loads the generator of a checked config onto a mesh, with further learned tokens, {token: file}.

    Raises:
      UserError: it is missing, damaged or not supported, or a token does not fit; it is named.
    """
    from bridgejax.diffusion import load_pipeline

    options = loading_options(config.generator)
    options["embeddings"] = {**(options["embeddings"] or {}), **(embeddings or {})} or None
    return load_pipeline(
        config.generator.weights, dtype=config.generator.dtype, mesh=mesh, mesh_rules=config.mesh_rules, **options
    )
