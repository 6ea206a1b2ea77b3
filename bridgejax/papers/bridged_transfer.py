"""The experiments of Li et al. 2024 (arXiv 2403.19866) as configs: data sets, models, and what a study of them costs.

What the paper does not publish is our choice, and says so here. The tenth data set and the fifth model of the paper are not
known.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridgejax.config import LEARNED_MODES, Settings, default_config
from bridgejax.data.catalog import CatalogTask
from bridgejax.papers.paper_tasks import paper_tasks, set_other_task

if TYPE_CHECKING:
    from ml_collections import ConfigDict

DATA_SETS = paper_tasks(("aircraft", "caltech101", "cars", "dogs", "dtd", "flowers", "food", "pets", "sun397"))
MODELS = {
    "resnet18": "timm/resnet18.tv_in1k",
    "resnet50": "timm/resnet50.tv_in1k",
    "vit_b16": "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit_l16": "timm/vit_large_patch16_224.augreg_in21k_ft_in1k",
}
PER_CLASS = 1000  # synthetic images per class of the main table
_EMBEDDED_PER_CLASS = 32  # what stands for 1,000 on the embedded task


def paper_config(arg: str | None = None) -> ConfigDict:
    """Returns the config that a table or figure starts from.

    Args:
      arg: None or "embedded": the embedded task, generator and classifier, on a laptop; a key of `DATA_SETS`: that data set
        in full, with Stable Diffusion 1.5 and ResNet-18; a `task.source` (such as "folder:PATH"): that task with
        the embedded generator and classifier.

    Raises:
      UserError: an unknown data set.
    """
    config = default_config()
    config.study.seeds = 3
    config.study.baseline = "vanilla_long"
    if arg in DATA_SETS:
        return _full(config, DATA_SETS[str(arg)])
    set_other_task(config, arg, DATA_SETS)
    config.task.shots = 4
    config.generator.steps = 12
    config.generator.guidance_scale = 3.0
    config.synthetic.per_class = _EMBEDDED_PER_CLASS
    config.training.learning_rate = 0.003
    config.training.base_steps = 15
    config.training.evaluations = 1
    return config


def full_steps(images: int) -> int:
    """Returns `training.base_steps` for so many real images at full size: 75 passes in batches of 64, at least 1,000 steps.

    Ours, for the paper gives none: about the passes of Salman et al. 2020, who fine-tune the same networks on the same sets.
    """
    return max(1000, round(75 * images / 64))


def _full(config: ConfigDict, data: CatalogTask) -> ConfigDict:
    """The paper's setting where it is known (SD 1.5, prompt, ResNet-18, 1,000 images per class, 3 seeds); the rest is ours."""
    config.task.source = f"task:{data.name}"
    config.prompts.template = "A good photo of the {}"
    config.generator.weights = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    config.generator.dtype = "bfloat16"
    config.synthetic.per_class = PER_CLASS
    config.classifier.weights = MODELS["resnet18"]
    config.classifier.image_size = 224
    config.training.batch_size = 64
    config.training.base_steps = full_steps(data.images[0])
    config.training.learning_rate = 0.01
    config.training.batch_norm = "train"
    config.training.evaluations = 10
    return config


def is_full(config: ConfigDict) -> bool:
    """Returns whether a config of `paper_config` is of full size."""
    return any(config.task.source == f"task:{data.name}" for data in DATA_SETS.values())


def per_class(config: ConfigDict, images: int) -> int:
    """Returns how many synthetic images per class stand for the paper's `images`: as many, or in proportion on a small task."""
    return images if is_full(config) else max(1, round(images * _EMBEDDED_PER_CLASS / PER_CLASS))


def style_inversion(config: ConfigDict, mode: str = "dataset") -> dict[str, object]:
    """Returns the settings of a synthetic set in the learned style (paper Table 3): for `config.synthetic_sets.NAME`.

    At full size a token has the paper's 20,000 steps. The embedded generator learned from captions like "a photo of a bird",
    and its style words stand at their start; a token longer than the vocabulary's outweighs the class (docs/inversion.md).

    Args:
      config: of `paper_config`.
      mode: "dataset", or the `inversion.mode` of a control on the same sentence.
    """
    if is_full(config):
        return {"inversion": {"mode": mode, "steps": 20_000}}
    bounded = {"learning_rate": 0.003, "steps": 300, "longest": 1.0}
    return {"inversion": {"mode": mode, "prompt": "a {token} of a {class}", "evaluations": 1, **bounded}}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a study takes: images to generate, training runs, optimiser steps of them all, device hours."""

    images: int
    runs: int
    steps: int
    generation_hours: float
    training_hours: float

    @property
    def hours(self) -> float:
        """Device hours in all."""
        return self.generation_hours + self.training_hours

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


def cost(config: ConfigDict, classes: int, *, seconds_per_image: float, seconds_per_step: float) -> Cost:
    """Returns what a config's study takes on one device, from counts alone; learning tokens comes on top.

    Args:
      config: a checked config.
      classes: of its task.
      seconds_per_image: what one generated image takes on the device at the config's size and steps; an assumption.
      seconds_per_step: what one optimiser step takes at the config's batch; an assumption.
    """
    settings = Settings.of(config)
    recipes = [settings.recipe(arm) for arm in settings.arms]
    volumes = settings.study.per_class or (settings.synthetic.per_class,)
    shots = settings.study.shots or (settings.task.shots,)
    names = {name for recipe in recipes for name in recipe.synthetic_sets}
    learned = sum(settings.of_set(name).inversion.mode in LEARNED_MODES for name in names)  # a set for each split
    images = classes * max(volumes) * (len(names) - learned + learned * len(shots) * settings.study.seeds)
    splits = len(shots) * settings.study.seeds
    # Without synthetic images one training serves all volumes.
    runs = {recipe.name: splits * (len(volumes) if recipe.needs_synthetic else 1) for recipe in recipes}
    steps = sum(runs[recipe.name] * recipe.steps for recipe in recipes)
    return Cost(images, sum(runs.values()), steps, images * seconds_per_image / 3600.0, steps * seconds_per_step / 3600.0)


def full_cost(
    file: str | Path, arguments: Sequence[str] | None = None, *, seconds_per_image: float, seconds_per_step: float
) -> Cost:
    """Returns what a config file of `configs/bridged_transfer/` takes at full size, over all data sets that it names.

    Args:
      file: the config file; its `FULL` is the tuple of arguments that stand for the paper's table or figure.
      arguments: instead of `FULL`.
      seconds_per_image, seconds_per_step: see `cost`.
    """
    from bridgejax.config import load_config

    total = Cost(0, 0, 0, 0.0, 0.0)
    for argument in full_arguments(file) if arguments is None else arguments:
        config = load_config(f"{file}:{argument}")
        classes = next(data.classes for data in DATA_SETS.values() if f"task:{data.name}" == config.task.source)
        total += cost(config, classes, seconds_per_image=seconds_per_image, seconds_per_step=seconds_per_step)
    return total


def full_arguments(file: str | Path) -> tuple[str, ...]:
    """Returns the arguments with which a config file makes up the whole table or figure: its `FULL`."""
    import runpy

    return tuple(runpy.run_path(str(file))["FULL"])


def rounded(hours: float) -> str:
    """Returns hours with two digits that count, as text."""
    if hours <= 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(hours)))
    return f"{round(hours, digits):,.{digits}f}"
