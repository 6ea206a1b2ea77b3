"""The generator of a config: loaded, and what it samples with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from jax.sharding import Mesh

from bridgejax.config import Settings, loading_options

if TYPE_CHECKING:
    from bridgejax.diffusion.pipeline import Pipeline
    from bridgejax.mesh import ParameterRuleLike


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
    def from_config(cls, settings: Settings) -> SamplingOptions:
        """Returns what the keys of `generator` and `prompts` say."""
        generator = settings.generator
        return cls(
            steps=generator.steps,
            guidance_scale=generator.guidance_scale,
            negative_prompt=settings.prompts.negative,
            scheduler=generator.scheduler,
            height=generator.height,
            width=generator.width,
        )


def load_generator(settings: Settings, mesh: Mesh | None, embeddings: Mapping[str, Path] | None = None) -> Pipeline:
    """Loads the generator of a checked config onto a mesh, with further learned tokens, {token: file}.

    Raises:
      UserError: it is missing, damaged or not supported, or a token does not fit; it is named.
    """
    from bridgejax.diffusion import load_pipeline

    options = loading_options(settings.generator)
    options["embeddings"] = {**(options["embeddings"] or {}), **(embeddings or {})} or None
    rules = cast("Iterable[ParameterRuleLike]", settings.mesh_rules)  # checked with the settings
    generator = settings.generator
    return load_pipeline(generator.weights, dtype=generator.dtype, mesh=mesh, mesh_rules=rules, **options)
