"""A stage of training and a recipe as typed values: every field once, with its default, what it may hold and what it does."""

from __future__ import annotations

import dataclasses
import re

from bridgejax.errors import UserError, choices
from bridgejax.fields import setting
from bridgejax.known_names import ERASING_FILLS
from bridgejax.recipes.filter_rules import FORM, filter_rules

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "constant")
LOSSES = ("cross_entropy", "soft_target", "moco")
BATCH_NORMS = ("train", "frozen")
SOFT_IMAGES = ("all", "synthetic")
HEADS = ("keep", "cache", "prompt")
RESETS = ("none", "head", "initial_head", "all")
# Fields by the names under which digests of results know them; what was made before a field got its name stays valid.
_DIGEST_NAMES = {"early_stop_checks": "early_stop_looks"}
# Fields that came later: at their defaults they stay out of digests, which are then as they were before.
_LATER = (
    *("teacher", "synthetic_filter", "clip_norm", "batch_size", "soft_images"),
    *("head", "cache_weight", "cache_sharpness", "context_tokens"),
    *("contrast_temperature", "recolour", "key_momentum", "queue_size", "projection_width", "norm_groups"),
    *("cutmix_alpha", "cutmix_share", "erasing", "erasing_fill", "randaugment", "randaugment_layers", "stochastic_depth"),
    *("synthetic_side", "repeats"),
)


def reset_depth(reset: str) -> int | None:
    """Returns N of a stage's reset "blocks:N", None for another reset."""
    return int(reset.removeprefix("blocks:")) if reset.startswith("blocks:") else None


def _check_reset(where: str, reset: str) -> None:
    if reset not in RESETS and not re.fullmatch(r"blocks:[1-9]\d*", reset):
        raise UserError(
            f"{where} is {reset!r}; {choices(reset, RESETS)} 'blocks:N' is the head and the last N blocks, N of at least 1."
        )


@dataclasses.dataclass(frozen=True)
class Optimization:
    """How weights are updated: the defaults in a config's `training`, and what a stage may state instead."""

    optimizer: str = setting("sgd", "The optimiser.", options=OPTIMIZERS)
    learning_rate: float = setting(0.01, "The peak learning rate.", at_least=0)
    weight_decay: float = setting(5e-4, "Weight decay: coupled for sgd, decoupled for adamw.", at_least=0)
    momentum: float = setting(0.9, "Momentum of sgd.", at_least=0, below=1)
    clip_norm: float | None = setting(
        None, "Largest norm of all gradients together, to which longer ones are scaled down; None is no bound.", above=0
    )
    schedule: str = setting("cosine", "The learning rate after the warm-up: falling to 0, or constant.", options=SCHEDULES)
    batch_norm: str = setting(
        "train",
        "Batch norms by the statistics of the batch, which also move the running ones, or by the running ones at rest.",
        options=BATCH_NORMS,
    )


@dataclasses.dataclass(frozen=True)
class Stage(Optimization):
    """One stretch of training.

    `steps` is at most so many where the stage stops early. What a config may state instead of `steps` and `learning_rate` is in
    `bridgejax.recipes.StageLength`.
    """

    data: str = setting("real", "Which images it trains on; mixed is both.", options=("real", "synthetic", "mixed"))
    synthetic_set: str = setting("", "Which of `synthetic_sets` its synthetic images are; '' is the config's own set.")
    synthetic_filter: tuple[str, ...] = setting(
        (),
        "Which of its synthetic images it trains on: rules, each on what those before it left (docs/filter.md); () is all.",
        form=FORM,
        check=filter_rules,
    )
    synthetic_share: float | None = setting(
        None, "Share of synthetic images in a mixed batch; None draws from the union, every image alike.", at_least=0, at_most=1
    )
    synthetic_loss: float | None = setting(
        None,
        "Share w of a mixed batch's loss that its synthetic images carry: (1 - w) times the mean over the real ones plus w "
        "times the mean over the synthetic ones. None: every image alike.",
        at_least=0,
        at_most=1,
    )
    synthetic_side: int | None = setting(
        None,
        "What the shorter sides of its synthetic images are reduced to first, the side of a task's images of low resolution; "
        "None leaves them.",
        unit="pixels",
        at_least=1,
    )
    batch_size: int | None = setting(None, "Images in an update; None is training.batch_size.", at_least=1)
    steps: int = setting(200, "How long it lasts.", unit="optimiser steps", at_least=1)
    nesterov: bool = setting(False, "Nesterov momentum.")
    warmup_steps: int = setting(0, "Linear rise of the learning rate at the start.", unit="optimiser steps", at_least=0)
    loss: str = setting(
        "cross_entropy",
        "The objective; soft_target also follows a teacher, moco tells two views of an image from other images, not by labels.",
        options=LOSSES,
    )
    label_smoothing: float = setting(0.0, "Share of the target that is spread over all classes.", at_least=0, at_most=1)
    mixup_alpha: float = setting(0.0, "Alpha of Mixup's beta distribution; 0 is no Mixup.", at_least=0)
    cutmix_alpha: float = setting(
        0.0, "Alpha of CutMix's beta distribution, which decides the size of the box; 0 is no CutMix.", at_least=0
    )
    cutmix_share: float = setting(
        0.5, "Share of batches with CutMix where mixup_alpha is above 0 too; the others have Mixup.", at_least=0, at_most=1
    )
    erasing: float = setting(0.0, "Share of images of which a random box is erased.", at_least=0, at_most=1)
    erasing_fill: str = setting("pixel", "What erased boxes hold: noise at each pixel, or zero.", options=ERASING_FILLS)
    randaugment: float = setting(0.0, "Magnitude of RandAugment; 0 is none.", at_least=0, at_most=10)
    randaugment_layers: int = setting(2, "Operations that RandAugment draws for an image.", at_least=1)
    stochastic_depth: float = setting(
        0.0,
        "How often an image skips the last block's residual branches in training; it rises evenly from 0 at the first block.",
        at_least=0,
        below=1,
    )
    soft_weight: float = setting(0.5, "Weight of the teacher's targets in soft_target.", at_least=0, at_most=1)
    temperature: float = setting(2.0, "Temperature of soft_target.", above=0)
    teacher: str | None = setting(
        None,
        "Teacher of soft_target: the weights of a classifier of the task's classes, a CLIP model, which is used zero-shot, or "
        "'pretrained' for classifier.weights.",
    )
    soft_images: str = setting(
        "all",
        "Which images of a mixed batch follow the teacher in soft_target; the others have the cross-entropy alone.",
        options=SOFT_IMAGES,
    )
    contrast_temperature: float = setting(0.2, "Temperature of moco.", above=0)
    recolour: float = setting(
        1.0, "Of moco: strength of a view's changes of colour and blur; 0 is none.", at_least=0, at_most=1
    )
    key_momentum: float = setting(0.999, "Of moco: what stays of the key network's parameters at a step.", at_least=0, below=1)
    queue_size: int = setting(65536, "Of moco: keys in the queue, a multiple of the batch.", at_least=1)
    projection_width: int = setting(128, "Of moco: outputs of the two-layer head in the classifier's place.", at_least=1)
    norm_groups: int = setting(8, "Of moco: parts of a batch, each with batch norm statistics of its own.", at_least=1)
    trainable: tuple[str, ...] = setting(
        ("all",), "What trains: 'all', 'head', or regular expressions searched in the parameters' dotted names."
    )
    reset: str = setting(
        "none",
        "What starts anew before it: none; head, by a random one; initial_head, by the one that the run started with, a CLIP "
        "model's of its texts; blocks:N, the head and the last N blocks; all, a new random network. The last two need "
        "batch_norm stated, since new blocks have no running statistics.",
        form="'none', 'head', 'initial_head', 'blocks:N' or 'all'",
        check=_check_reset,
    )
    head: str = setting(
        "keep",
        "What is made of the head before it: keep leaves it; cache puts the features of the real training images beside it, "
        "which vote for their classes (Tip-Adapter); prompt makes it of class names behind tokens that are learned (CoOp).",
        options=HEADS,
    )
    cache_weight: float = setting(1.0, "Weight of the votes of head='cache', its alpha.", at_least=0)
    cache_sharpness: float = setting(5.5, "How quickly votes of head='cache' fall off with distance, its beta.", at_least=0)
    context_tokens: int = setting(16, "Learned tokens of head='prompt'.", at_least=1)
    early_stop: int | None = setting(
        None,
        "Checks of the validation images without a better mean per-class accuracy after which it ends and goes back to the "
        "best. Needs task.validation_per_class. None: it lasts its steps.",
        at_least=1,
    )
    early_stop_checks: int = setting(10, "How many checks are spread evenly over its steps.", at_least=1)
    batch_statistics: str = setting(
        "keep", "Before it, keep the running statistics or go back to the model's initial ones.", options=("keep", "initial")
    )
    restart_optimizer: bool = setting(True, "Moments start at zero; else those of the stage before go on.")
    restart_schedule: bool = setting(True, "The schedule starts afresh; else it goes on over the steps of both stages.")
    augment: bool = setting(True, "Random resized crops and flips.")
    repeats: int = setting(
        1, "How often each drawn image is in a batch, every time augmented anew; steps then see fewer images.", at_least=1
    )

    @property
    def synthetic_source(self) -> str:
        """What its synthetic images go by: the name of their set, and "/" with the rules that they passed, if there are any."""
        return "/".join([self.synthetic_set, *(["+".join(self.synthetic_filter)] if self.synthetic_filter else [])])

    @property
    def contrasts(self) -> bool:
        """Whether it learns from two views of each image instead of labels, with a head that gives no classes."""
        return self.loss == "moco"

    def to_dict(self) -> dict[str, object]:
        """Returns the stage as plain data, for digests and records."""
        fields = {_DIGEST_NAMES.get(name, name): value for name, value in dataclasses.asdict(self).items()}
        return {name: value for name, value in fields.items() if name not in _LATER or value != getattr(Stage, name)}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A name and its stages; without any, the classifier is evaluated as it is."""

    name: str
    stages: tuple[Stage, ...]

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    @property
    def needs_synthetic(self) -> bool:
        """Whether any stage sees synthetic images."""
        return any(stage.data != "real" for stage in self.stages)

    @property
    def synthetic_sets(self) -> tuple[str, ...]:
        """The sets of synthetic images that its stages see, each once; "" is the config's own."""
        return tuple(dict.fromkeys(stage.synthetic_set for stage in self.synthetic_stages.values()))

    @property
    def synthetic_stages(self) -> dict[str, Stage]:
        """For each `synthetic_source` of its stages, the first that trains on it."""
        found: dict[str, Stage] = {}
        for stage in self.stages:
            if stage.data != "real":
                found.setdefault(stage.synthetic_source, stage)
        return found

    def to_dict(self) -> dict[str, object]:
        """Returns the recipe as plain data, for digests and records."""
        return {"name": self.name, "stages": [stage.to_dict() for stage in self.stages]}
