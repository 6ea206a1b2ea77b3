"""The synthetic sets of a study: the config's own, and those of its `synthetic_sets` that stages name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bridgejax.config import set_config, to_plain
from bridgejax.identity import canonical_json, derive_seed

OWN_FOLDER = "synthetic"
NAMED_FOLDER = "synthetic_sets"


class StudySet:
    """One synthetic set: which generator makes it, of what, and where it lies.

    Attributes:
      name: as stages name it; "" is the config's own.
      config: the study's config with this set's changes.
      pipeline: the loaded generator.
      folder: relative to the workdir.
    """

    def __init__(self, config: Any, name: str, pipeline: Any) -> None:
        self.name, self.config, self.pipeline = name, config, pipeline
        self.folder = Path(NAMED_FOLDER, name) if name else Path(OWN_FOLDER)

    def options(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """Returns what decides the images, as `generate_set` takes it."""
        config = self.config
        seed = config.synthetic.seed if config.synthetic.seed is not None else derive_seed(config.seed, "synthetic")
        template = config.prompts.template
        return {
            "class_names": class_names,
            "template": template if isinstance(template, str) else tuple(template),
            "seed": seed,
            "steps": config.generator.steps,
            "guidance_scale": float(config.generator.guidance_scale),
            "negative_prompt": config.prompts.negative,
            "scheduler": config.generator.scheduler,
            "height": config.generator.height,
            "width": config.generator.width,
            "variants": to_plain(config)["prompts"]["variants"] or None,
        }

    def storage(self) -> dict[str, Any]:
        """Returns what `generate_set` takes beside that and decides no image."""
        return {"batch_size": self.config.generator.batch_size, "shard_size": self.config.synthetic.shard_size}

    def identity(self, class_names: tuple[str, ...], per_class: int) -> list[Any]:
        """Returns what decides the first `per_class` images of each class."""
        return [self.pipeline.digest, self.config.generator.dtype, self.options(class_names), per_class]


def load_sets(config: Any, names: Iterable[str], mesh: Any) -> dict[str, StudySet]:
    """Returns the sets of these names in their order; sets of the same generator share one pipeline.

    Raises:
      UserError: a set is unknown or a generator is not as it should be.
    """
    from bridgejax.diffusion import load_pipeline
    from bridgejax.generator_options import loading_options

    pipelines: dict[str, Any] = {}
    found = {}
    for name in names:
        own = set_config(config, name)
        generator = own.generator
        options = loading_options(generator)
        key = canonical_json([generator.weights, generator.dtype, {k: str(v) for k, v in options.items()}])
        if key not in pipelines:
            pipelines[key] = load_pipeline(
                generator.weights, dtype=generator.dtype, mesh=mesh, mesh_rules=config.mesh_rules, **options
            )
        found[name] = StudySet(own, name, pipelines[key])
    return found
