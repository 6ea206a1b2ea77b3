"""The groups of a config: every key once, with its type, default, what it may hold, its unit and what it is for.

`default_config`, the checks, overrides on the command line, docs/configuration.md and the JSON Schema are all made from these
classes and from `bridgejax.config.settings.Settings`. A key that does not decide results (`decides=False`) may change when a
workdir is continued.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from bridgejax.config.file_pairs import scaled_files, word_files
from bridgejax.config.names import (
    check_class_names,
    check_class_source,
    check_phrases,
    check_sentence_source,
    check_templates,
    check_token,
    composed,
)
from bridgejax.errors import UserError
from bridgejax.fields import redefault, setting
from bridgejax.known_names import GENERATOR_DTYPES, PREDICTION_TYPES, SCHEDULERS, TRAINING_DTYPES
from bridgejax.recipes import Optimization, Stage, filter_rules
from bridgejax.recipes.filter_rules import FORM


def _check_classes(_: str, names: tuple[str, ...]) -> None:
    if names:
        check_class_names(names)


def _check_variants(_: str, variants: Mapping[str, tuple[str, ...]]) -> None:
    composed(list(variants), "prompts.variants")
    for name, phrases in variants.items():
        check_phrases(name, phrases)


def _check_templates(where: str, template: str | tuple[str, ...]) -> None:
    check_templates(template, where)


def _check_not_empty(where: str, text: str) -> None:
    if not text:
        raise UserError(f"{where} is empty; give a value, or None.")


def _check_distinct(where: str, grid: tuple[float, ...]) -> None:
    if not grid or len(set(grid)) != len(grid):
        raise UserError(f"{where} is {grid!r}; it should be a list of different numbers above 0.")


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """The classes and their real images."""

    source: str = setting(
        "builtin:tux_photos",
        "Where the real images come from: builtin:tux_photos, folder:PATH, split:FILE.json, task:NAME, tfds:NAME; or classes, "
        "which has none and generates from task.class_names alone.",
    )
    shots: int | None = setting(None, "Real training images per class; None takes all.", at_least=1)
    class_names: tuple[str, ...] = setting((), "The classes and their order; () takes the source's own.", check=_check_classes)
    validation_per_class: int = setting(0, "Images per class set aside for validation, out of the training images.", at_least=0)
    data_dir: str | None = setting(
        None, "Where prepared TFDS sets, or the images of a split file, lie; None is TFDS's own default, the file's folder."
    )


@dataclasses.dataclass(frozen=True)
class PromptSettings:
    """How a class name becomes a prompt."""

    template: str | tuple[str, ...] = setting(
        "a photo of a {}",
        "A text or several, used in rotation; the class goes where {} is.",
        form="a text or a list of texts with {} where the class name goes",
        check=_check_templates,
    )
    negative: str = setting("", "The negative prompt.")
    variants: Mapping[str, tuple[str, ...]] = setting(
        {}, "Class name → more specific phrases that stand for it in rotation.", check=_check_variants
    )
    source: str = setting(
        "template",
        "What stands for a class: template, its name in prompts.template; or sentences (docs/language.md) of file:PATH, "
        "builtin:tux_photos, a language model t5:FOLDER, or endpoint:URL.",
        check=check_sentence_source,
    )
    sentences: int = setting(200, "Sentences of a class, used in rotation; of a file, the first so many.", at_least=1)
    sentence_template: str | tuple[str, ...] = setting(
        "a photo of {}",
        "In place of template where there are sentences; the sentence goes where {} is.",
        form="a text or a list of texts with {} where the sentence goes",
        check=_check_templates,
    )
    question: str | None = setting(
        None,
        "What a language model is given, with {} for the class and, for an endpoint, {count} for how many sentences. None: "
        "the name alone, an endpoint gets an instruction.",
        form="a text with {} where the class name goes",
        check=_check_templates,
    )
    seed: int | None = setting(None, "Of the sentences; None derives it from seed.", at_least=0)
    max_tokens: int = setting(32, "Greatest length of a sentence.", unit="tokens", at_least=1)
    temperature: float = setting(1.0, "By which a language model's logits are divided.", above=0)
    top_k: int = setting(50, "Of t5: so many of the likeliest tokens may follow; 0 is no bound.", at_least=0)
    top_p: float = setting(1.0, "Only the likeliest tokens of this probability together may follow.", above=0, at_most=1)
    endpoint_model: str = setting("", "Name of the model that an endpoint is asked for.")
    endpoint_key: str = setting("OPENAI_API_KEY", "The environment variable with the endpoint's key.", decides=False)
    endpoint_rate: float = setting(60.0, "Greatest rate of requests.", unit="per minute", above=0, decides=False)
    endpoint_timeout: float = setting(60.0, "For one answer.", unit="seconds", above=0, decides=False)
    endpoint_retries: int = setting(5, "Further attempts where a request fails.", at_least=0, decides=False)


@dataclasses.dataclass(frozen=True)
class GeneratorSettings:
    """The text-to-image model and how it samples."""

    weights: str = setting(
        "builtin:tiny_diffusion", "builtin:NAME, a folder in the diffusers layout, a .safetensors file or a hub name."
    )
    steps: int = setting(50, "Sampling steps.", at_least=1)
    guidance_scale: float = setting(7.5, "Scale of classifier-free guidance; up to 1 is none.", at_least=0)
    scheduler: str | None = setting(None, "The sampler; None is the one of the weights.", options=SCHEDULERS)
    batch_size: int = setting(32, "Images sampled at once.", at_least=1)
    height: int | None = setting(
        None, "Height of the images; None is the model's own.", unit="pixels", at_least=8, multiple_of=8
    )
    width: int | None = setting(None, "Width of images; None is the model's own.", unit="pixels", at_least=8, multiple_of=8)
    dtype: str = setting("float32", "What the networks hold and compute in.", options=GENERATOR_DTYPES)
    loras: tuple[str | tuple[str, float], ...] = setting(
        (),
        "LoRA files merged into the weights.",
        form="a list of (path, scale) pairs or texts PATH:SCALE",
        check=lambda where, values: scaled_files(values, where),
    )
    words: tuple[str | tuple[str, str], ...] = setting(
        (),
        "Learned tokens that prompts may hold.",
        form="a list of (word, path) pairs or texts WORD=PATH",
        check=lambda where, values: word_files(values, where),
    )
    vae: str | None = setting(
        None, "Another autoencoder, a folder or a hub name; None is the one of the weights.", check=_check_not_empty
    )
    tokenizer: str | None = setting(
        None, "A folder with CLIP's tokenizer, for a single file that has none beside it.", check=_check_not_empty
    )
    prediction_type: str | None = setting(
        None, "What a single file's network predicts, where the file does not show it.", options=PREDICTION_TYPES
    )


@dataclasses.dataclass(frozen=True)
class InversionSettings:
    """A token learned from the real training images, and the controls of that (docs/inversion.md)."""

    mode: str | None = setting(
        None,
        "dataset learns one token for all classes, class one for each; untrained leaves it as it starts; word puts a plain "
        "word in its place, none no style clause. None: prompts.template as it is.",
        options=("dataset", "class", "untrained", "word", "none"),
    )
    token: str = setting("<style>", "The new token; of each class <style-CLASS>.", check=check_token)
    prompt: str | tuple[str, ...] | None = setting(
        None,
        "Texts with {class} and {token} (mode class: {token} alone) to learn and to generate with, in place of "
        "prompts.template. None: 'A {class} photo in the style of {token}', of mode class 'A photo of a {token}'.",
    )
    plain_prompt: str | tuple[str, ...] = setting("A {class} photo", "Texts with {class} for mode none.")
    word: str = setting("photo", "The word of mode word.", check=check_token)
    vectors: int = setting(1, "Vectors that the token is made of.", at_least=1)
    initial: str = setting("photo", "Where the vectors start: a word of one token, mean_feature or random.", check=check_token)
    steps: int = setting(1000, "Updates of each token. The paper takes 20,000 for a data set, 5,000 for a class.", at_least=0)
    learning_rate: float = setting(0.005, "Of AdamW.", at_least=0)
    weight_decay: float = setting(0.01, "Of AdamW.", at_least=0)
    longest: int | float | None = setting(
        None, "Greatest length of a vector, in mean lengths of the vocabulary's; None is no bound, as in diffusers.", above=0
    )
    batch_size: int = setting(8, "Real images in an update.", at_least=1)
    flip: bool = setting(True, "Mirrors images at random.")
    seed: int | None = setting(None, "None derives it from seed and the study's seed.", at_least=0)
    evaluations: int = setting(
        4, "Sample sheets and losses over all images along the way, besides the first.", at_least=0, decides=False
    )
    checkpoint_every: int = setting(100, "Updates between checkpoints.", at_least=1, decides=False)


@dataclasses.dataclass(frozen=True)
class SyntheticSettings:
    """How many images are generated, and how they lie on disk."""

    per_class: int = setting(100, "Synthetic images per class of the task.", at_least=1)
    class_names: str | tuple[str, ...] = setting(
        (),
        "What the images are of, if not of the task's classes: names, file:PATH with a name a line, or a source such as "
        "task:imagenet, whose names are taken; a stage on them has a head of its own (docs/recipes.md). () is the task's.",
        form="a list of names, or a text such as 'file:PATH' or 'task:NAME'",
        check=check_class_source,
    )
    seed: int | None = setting(None, "None derives it from seed.", at_least=0)
    shard_size: int | None = setting(None, "Images in a shard; None chooses.", at_least=1)
    real_guidance: float | str | None = setting(
        None,
        "Images start from the real training images of their class: the share of the sampling steps that are made, or paper, "
        "that of He et al. for so many shots: 0.5, 0.4, 0.35, 0.2 and 0.15 for 1, 2, 4, 8 and 16. None: from noise alone.",
        above=0,
        at_most=1,
        options=("paper",),
    )


@dataclasses.dataclass(frozen=True)
class FilterSettings:
    """What judges synthetic images where a stage's `synthetic_filter`, or `bridgejax filter`, keeps a part (docs/filter.md)."""

    classifier: str | None = setting(
        None,
        "What scores an image by the probability of its class: a CLIP folder or name, which is used zero-shot, or a classifier "
        "of the task's classes. None: there are no scores, and no rule may need them.",
        decides=False,
    )
    template: str | tuple[str, ...] | None = setting(
        None,
        "Texts with {} for a CLIP's zero-shot head; None is 'a photo of a {}.'.",
        decides=False,
        form="a text or a list of texts with {} where the class name goes, or None",
        check=lambda _, template: check_templates(template),
    )
    rule: tuple[str, ...] = setting(
        ("above_chance",),
        "What `bridgejax filter` keeps: rules as of a stage's synthetic_filter.",
        decides=False,
        form=FORM,
        check=filter_rules,
    )
    image_size: int | None = setting(
        None, "Side of the images that it sees; None is its own.", unit="pixels", at_least=16, decides=False
    )
    batch_size: int = setting(64, "Images scored at once.", at_least=1, decides=False)
    seed: int | None = setting(None, "Of quota's draw from what passes; None derives it from seed.", at_least=0, decides=False)


@dataclasses.dataclass(frozen=True)
class ClassifierSettings:
    """The pretrained network that is fine-tuned."""

    weights: str = setting("builtin:efficientnet_lite0", "builtin:NAME, a folder or a name of a published network.")
    templates: tuple[str, ...] = setting(
        (),
        "Texts with {} that make the head of a CLIP model from the class names, its zero-shot head; () is a new head.",
        check=lambda _, templates: check_templates(templates, "classifier.templates") if templates else None,
    )
    image_size: int = setting(96, "Side of the images that it sees.", unit="pixels", at_least=16)
    crop: float | None = setting(
        None, "Share of the shorter side that evaluation keeps; None is the network's own.", above=0, at_most=1
    )


@dataclasses.dataclass(frozen=True)
class TrainingSettings(Optimization):
    """What stages do unless they state otherwise, and how runs are carried out."""

    # Short runs hardly move running statistics, so batch statistics in training would not be those of the test.
    batch_norm: str = redefault(Optimization, "batch_norm", "frozen")
    batch_size: int = setting(32, "Images in an update.", at_least=1)
    synthetic_side: int | None = redefault(Stage, "synthetic_side", None)
    eval_batch_size: int = setting(64, "Images evaluated at once.", at_least=1)
    accumulate: int = setting(
        1, "Parts of a batch that go through the network one after the other, for one update: less memory.", at_least=1
    )
    steps: int | None = setting(
        None, "One length for every stage; None is what the recipe says.", unit="optimiser steps", at_least=1
    )
    base_steps: int = setting(50, "How long a stage of length 1.0 lasts.", unit="optimiser steps", at_least=1)
    dtype: str = setting(
        "float32", "What networks compute in; parameters, batch norms and losses stay float32.", options=TRAINING_DTYPES
    )
    remat: bool = setting(
        False, "Computes the network's blocks again in the backward pass: less memory, more time.", decides=False
    )
    evaluations: int = setting(4, "Evaluations of a run along the way, for the convergence curves.", at_least=0)
    checkpoint_seconds: float = setting(60.0, "Time between checkpoints.", unit="seconds", at_least=0, decides=False)
    tensorboard: bool = setting(
        False, "Writes each run's scalars for TensorBoard, beside its result (docs/scale/storage.md).", decides=False
    )
    tuned: str | None = setting(None, "tuning.json of bridgejax tune: each arm's rate and length.", decides=False)


@dataclasses.dataclass(frozen=True)
class StudySettings:
    """Which runs there are: arms, seeds and grids."""

    seeds: int = setting(3, "How many seeds; each draws its own shots.", at_least=1, decides=False)
    baseline: str = setting("vanilla_long", "The recipe that every arm is compared with.", decides=False)
    shots: tuple[int | None, ...] = setting((), "A grid of shot counts; () is task.shots alone.", at_least=1, decides=False)
    per_class: tuple[int, ...] = setting(
        (), "A grid of synthetic volumes; () is synthetic.per_class alone.", at_least=1, decides=False
    )
    parallel_seeds: int | str = setting(
        1, "Seeds of an arm that train at once: 1 is one by one, auto is all.", at_least=1, options=("auto",), decides=False
    )


@dataclasses.dataclass(frozen=True)
class TuningSettings:
    """What `bridgejax tune` tries for every arm, evaluated on the validation images."""

    learning_rates: tuple[float, ...] = setting(
        (0.001, 0.003, 0.01), "Learning rates.", above=0, check=_check_distinct, decides=False
    )
    lengths: tuple[float, ...] = setting(
        (1.0,), "Multiples of training.base_steps.", above=0, check=_check_distinct, decides=False
    )
    seeds: int = setting(2, "Seeds of each candidate.", at_least=1, decides=False)


@dataclasses.dataclass(frozen=True)
class ReportSettings:
    """What the report measures beyond accuracies; nothing is chosen by it."""

    synthetic_set: str | None = setting(
        None, "Compares the synthetic images with the train or the test images.", options=("train", "test"), decides=False
    )
    leep: bool = setting(
        False, "LEEP of the pretrained network and after each synthetic first stage (trains that stage again).", decides=False
    )


@dataclasses.dataclass(frozen=True)
class ExecutorSettings:
    """How an executor other than local carries out shards and runs (docs/scale/executors.md)."""

    workers: int | None = setting(
        None,
        "Units at once; None: of processes, one for each GPU or two; of Ray, as many as fit; of SLURM, 16.",
        at_least=1,
        decides=False,
    )
    tries: int = setting(3, "How often a unit is tried before the command gives up.", at_least=1, decides=False)
    unit_seconds: float | None = setting(
        None, "A unit that takes longer is ended and tried again; None waits.", unit="seconds", above=0, decides=False
    )
    cpus: float = setting(1.0, "CPUs that Ray or SLURM sets aside for a unit.", above=0, decides=False)
    gpus: float = setting(0.0, "GPUs that Ray or SLURM sets aside for a unit.", at_least=0, decides=False)
    address: str | None = setting(
        None, "Of a Ray cluster, or auto; None: $RAY_ADDRESS, else a Ray of this machine is started.", decides=False
    )
    minutes: int = setting(240, "Time limit of a SLURM job; one that reaches it is queued again.", at_least=1, decides=False)
    slurm: Mapping[str, object] = setting(
        {}, "Further parameters of submitit, such as slurm_partition or slurm_account.", decides=False
    )
