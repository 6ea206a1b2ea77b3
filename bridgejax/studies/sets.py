"""The synthetic sets of a study: the config's own, and those of its `synthetic_sets` that stages name."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bridgejax.config import set_config, to_plain
from bridgejax.diffusion.schedulers import make_scheduler
from bridgejax.identity import canonical_json, derive_seed
from bridgejax.studies.generator import load_generator
from bridgejax.studies.wording import LEARNED, make_wording

OWN_FOLDER, NAMED_FOLDER, WORDS_FOLDER = "synthetic", "synthetic_sets", "inversion"
_GENERATOR_KEYS = ("weights", "dtype", "loras", "words", "vae", "tokenizer", "prediction_type")


class StudySet:
    """One synthetic set: which generator makes it, of what, and where it lies.

    A set whose prompts hold a learned word exists once for each draw of the shots (their count and the study's seed), since the
    word is learned from them; any other set serves all draws.

    Attributes:
      name: as stages name it; "" is the config's own.
      config: the study's config with this set's changes.
      class_names: of the task.
      mesh: the devices that generate.
      learns: whether its prompts hold words learned from the shots.
      pipeline: the loaded generator; None where each draw has its own.
    """

    def __init__(self, config: Any, name: str, class_names: tuple[str, ...], mesh: Any, pipeline: Any = None) -> None:
        self.name, self.config, self.class_names, self.mesh = name, config, class_names, mesh
        self.learns = config.inversion.mode in LEARNED
        self.pipeline = pipeline
        self._plans: dict[tuple[int | None, int], Any] = {}

    def folder(self, shots: int | None, seed: int) -> Path:
        """Returns where the images lie that a run with this draw sees, relative to the workdir."""
        folder = Path(NAMED_FOLDER, self.name) if self.name else Path(OWN_FOLDER)
        return folder / draw_name(shots, seed) if self.learns else folder

    def inverter(self, workdir: Path, task: Any, shots: int | None, seed: int) -> Any:
        """Returns what learns the words of a draw (`bridgejax.studies.inversion.Inverter`).

        Raises:
          UserError: the words cannot be learned from these images, or are in the vocabulary.
        """
        from bridgejax.studies.inversion import Inverter

        folder = workdir / WORDS_FOLDER / self.name / draw_name(shots, seed)
        return Inverter(self._plan(task, shots, seed), folder, self.mesh)

    def options(self) -> dict[str, Any]:
        """Returns what decides the images, as `generate_set` takes it."""
        config = self.config
        seed = config.synthetic.seed if config.synthetic.seed is not None else derive_seed(config.seed, "synthetic")
        template = config.prompts.template
        options = {
            "class_names": self.class_names,
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
        if config.inversion.mode is not None:
            wording = make_wording(config.inversion, self.class_names)
            options |= {"template": wording.templates, **({"variants": wording.variants} if wording.variants else {})}
        return options

    def storage(self) -> dict[str, Any]:
        """Returns what `generate_set` takes beside that and decides no image."""
        return {"batch_size": self.config.generator.batch_size, "shard_size": self.config.synthetic.shard_size}

    def identity(self, task: Any, shots: int | None, seed: int, per_class: int) -> list[Any]:
        """Returns what decides the first `per_class` images of each class that a run with this draw sees.

        Of words that are yet to be learned, what decides them stands for them; the generator is in it.
        """
        made_by = self._plan(task, shots, seed).identity if self.learns else self.pipeline.digest
        return [made_by, self.config.generator.dtype, self.options(), per_class]

    @functools.cached_property
    def _vocabulary(self) -> Any:
        from bridgejax.studies.word_plan import Vocabulary

        return Vocabulary(self.config)

    def _plan(self, task: Any, shots: int | None, seed: int) -> Any:
        from bridgejax.studies.word_plan import WordPlan

        if (shots, seed) not in self._plans:
            self._plans[shots, seed] = WordPlan(self.config, task, shots, seed, self._vocabulary)
        return self._plans[shots, seed]


def draw_name(shots: int | None, seed: int) -> str:
    """Returns the folder name of a draw of the real images."""
    return f"shots-{'all' if shots is None else shots}_seed-{seed}"


def load_sets(
    config: Any, names: Iterable[str], class_names: tuple[str, ...], mesh: Any, load: bool = True
) -> dict[str, StudySet]:
    """Returns the sets of these names in their order; sets of the same generator share one pipeline.

    Args:
      config: the study's.
      names: "" is the config's own set.
      class_names: of the task.
      mesh: the devices that generate.
      load: whether to load the generators of sets that serve all draws.

    Raises:
      UserError: a set is unknown, a generator is not as it should be, or its scheduler knows no such number of steps.
    """
    pipelines: dict[str, Any] = {}
    found = {}
    for name in names:
        one = StudySet(set_config(config, name), name, class_names, mesh)
        if load and not one.learns:
            key = canonical_json([to_plain(one.config)["generator"][part] for part in _GENERATOR_KEYS])
            if key not in pipelines:
                pipelines[key] = load_generator(one.config, mesh)
            one.pipeline = pipelines[key]
            generator, description = one.config.generator, one.pipeline.description
            make_scheduler(generator.scheduler, description.scheduler, description.scheduler_place).tables(generator.steps)
        found[name] = one
    return found
