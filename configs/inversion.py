"""Dataset style inversion on the quick start's task: one word for the photographs, learned from four of each class.

    bridgejax invert --config configs/inversion.py --workdir inversion --seed 0
    bridgejax run --config configs/inversion.py --workdir inversion

and its controls, each in a workdir of its own: configs/inversion.py:class (a word for each class), :untrained, :word (the word
"photo" in its place) and :none (no style clause). The embedded generator learned from captions like "a photo of a bird" and "a
drawing of a parrot", so the new word takes the place of "photo"; for a generator that knows English leave `inversion.prompt` at
its default. Rate, length and bound were chosen by the shots alone: docs/inversion.md.
"""

from __future__ import annotations

from typing import Any

from bridgejax.config import default_config
from bridgejax.recipes import at_rate


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg`, if given, is `inversion.mode`."""
    config = default_config()
    config.task.shots = 4
    config.generator.steps = 12
    config.generator.guidance_scale = 3.0
    config.generator.batch_size = 32
    config.synthetic.per_class = 32
    config.classifier.image_size = 96
    config.training.learning_rate = 0.003
    for arm, rate in (("synthetic_only", 0.01), ("bridged", 0.001)):
        config.recipes[arm] = at_rate(config.recipes[arm], rate)
    config.training.base_steps = 15
    config.training.evaluations = 2
    config.study.seeds = 3
    config.inversion.mode = arg or "dataset"
    config.inversion.prompt = "a photo of a {token}" if arg == "class" else "a {token} of a {class}"
    config.inversion.plain_prompt = "a {class}"
    config.inversion.learning_rate = 0.003
    config.inversion.longest = 1.0
    config.inversion.steps = 300
    return config
