"""The synthetic sets of a study: the config's own, and those of its `synthetic_sets` that stages name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jax.sharding import Mesh

from bridgejax.config import LEARNED_MODES, Settings
from bridgejax.data import Task
from bridgejax.diffusion.from_config import SamplingOptions, load_generator
from bridgejax.diffusion.schedulers import make_scheduler
from bridgejax.errors import UserError
from bridgejax.files import canonical_json
from bridgejax.identity import derive_seed
from bridgejax.inversion.learner import TokenLearner
from bridgejax.inversion.token_plan import TokenPlan, Vocabulary, split_name
from bridgejax.inversion.tokens import token_prompts
from bridgejax.mesh import barrier
from bridgejax.prompts.language_enhancement import SentencePlan, plan_sentences
from bridgejax.runtime import is_first
from bridgejax.studies.label_space import class_names_of

if TYPE_CHECKING:
    from bridgejax.diffusion.pipeline import Pipeline
    from bridgejax.synthesis import RealGuidance

OWN_FOLDER, NAMED_FOLDER, TOKENS_FOLDER, SENTENCES_FOLDER = "synthetic", "synthetic_sets", "inversion", "sentences"
_GENERATOR_KEYS = ("weights", "dtype", "loras", "words", "vae", "tokenizer", "prediction_type")


@dataclasses.dataclass(frozen=True)
class SetOptions:
    """What decides the images of a set besides the generator and their number; fields are named as in `generate_set`."""

    class_names: tuple[str, ...]
    template: str | tuple[str, ...]
    variants: Mapping[str, Sequence[str]] | None
    seed: int
    sampling: SamplingOptions

    @classmethod
    def from_config(cls, settings: Settings, class_names: tuple[str, ...]) -> SetOptions:
        """Returns what a set's config says, with the prompts of `inversion.mode` if it is set.

        Sentences, where the prompts are made of such, are yet to come: see `StudySet.with_sentences`.
        """
        own = settings.prompts
        by_name = own.source == "template"
        prompts = None if settings.inversion.mode is None else token_prompts(settings.inversion, class_names)
        seed = settings.synthetic.seed
        return cls(
            class_names=class_names,
            template=prompts.templates if prompts is not None else own.template if by_name else own.sentence_template,
            variants=(prompts and prompts.variants) or own.variants or None,
            seed=derive_seed(settings.seed, "synthetic") if seed is None else seed,
            sampling=SamplingOptions.from_config(settings),
        )

    def to_dict(self) -> dict[str, object]:
        """Returns the options as flat plain data, for digests."""
        plain = dataclasses.asdict(self)
        return {**plain.pop("sampling"), **plain}


@dataclasses.dataclass(frozen=True)
class StudySet:
    """One synthetic set: which generator makes it, of what, and where it lies.

    A set whose prompts hold a learned token, or whose images start from real ones, exists once for each split of the real
    images (their count per class and the study's seed); any other set serves all splits.
    """

    name: str  # as stages name it; "" is the config's own
    settings: Settings  # the study's, with this set's changes
    options: SetOptions  # what decides its images
    mesh: Mesh  # the devices that generate
    task_names: tuple[str, ...]  # the task's class names; the set's own are in its options
    # The loaded generator; None where each split has its own, or where generators are not loaded.
    pipeline: Pipeline | None = None
    vocabulary: Vocabulary | None = None  # of the generator, where tokens are learned
    # Where they come from, of prompts made of sentences that are not there yet; else None.
    sentences: SentencePlan | None = None
    _token_plans: dict[tuple[int | None, int], TokenPlan] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def learns(self) -> bool:
        """Whether its prompts hold tokens learned from the real images."""
        return self.vocabulary is not None

    @property
    def is_of_task(self) -> bool:
        """Whether its images are of the task's classes."""
        return self.options.class_names == self.task_names

    def count(self, per_class: int) -> int:
        """Returns its images per class where the task's have `per_class`: of other classes as many in all, or a few more."""
        return -(-per_class * len(self.task_names) // len(self.options.class_names))

    @property
    def by_split(self) -> bool:
        """Whether each split of the real images has a set of its own."""
        return self.learns or self.settings.synthetic.real_guidance is not None

    def with_sentences(self, workdir: Path) -> StudySet:
        """Returns the set with the sentences of its prompts; the first process makes what is missing of them.

        Raises:
          UserError: a language model fails; the sentence says what was kept and how to go on.
        """
        if self.sentences is None:
            return self
        if is_first():
            self.sentences.make(workdir / SENTENCES_FOLDER)
        barrier("bridgejax: sentences made")
        options = dataclasses.replace(self.options, variants=self.sentences.make(workdir / SENTENCES_FOLDER))
        return dataclasses.replace(self, options=options, sentences=None)

    def folder(self, shots: int | None, seed: int) -> Path:
        """Returns where the images lie that a run on this split sees, relative to the workdir."""
        folder = Path(NAMED_FOLDER, self.name) if self.name else Path(OWN_FOLDER)
        return folder / split_name(shots, seed) if self.by_split else folder

    def learner(self, workdir: Path, task: Task, shots: int | None, seed: int) -> TokenLearner:
        """Returns what learns the tokens of a split.

        Raises:
          UserError: the tokens cannot be learned from these images, or are in the vocabulary.
        """
        folder = workdir / TOKENS_FOLDER / self.name / split_name(shots, seed)
        return TokenLearner(self._token_plan(task, shots, seed), folder, self.mesh)

    def identity(self, task: Task, shots: int | None, seed: int, per_class: int) -> list[object]:
        """Returns what decides the images that a run on this split sees, which has `per_class` of each class of the task.

        Of tokens that are yet to be learned, what decides them stands for them; the generator is in it.
        """
        if self.sentences is not None:
            raise RuntimeError(f"synthetic set {self.name!r} has no sentences yet")
        made_by = self._token_plan(task, shots, seed).identity if self.learns else self._loaded.digest
        guidance = self.guidance(task, shots)
        started = [] if guidance is None else [guidance.identity]
        return [made_by, self.settings.generator.dtype, self.options.to_dict(), self.count(per_class), *started]

    def guidance(self, task: Task, shots: int | None) -> RealGuidance | None:
        """Returns the real images that those of a run on this split start from, None where they start from noise alone.

        Raises:
          UserError: a class has none, or the steps are too few for the strength.
        """
        from bridgejax.synthesis.guidance import RealGuidance, paper_strength

        stated = self.settings.synthetic.real_guidance
        if stated is None:
            return None
        for name, count in zip(task.class_names, task.train.counts(len(task.class_names)), strict=True):
            if not count:
                raise UserError(
                    f"synthetic.real_guidance starts images from real ones, but class {name!r} of task {task.name!r} has no "
                    "training image; give it shots, or set synthetic.real_guidance to None."
                )
        learned_from = None if shots is None else shots - self.settings.task.validation_per_class
        strength = paper_strength(learned_from) if isinstance(stated, str) else stated
        if self.pipeline is not None:
            self.pipeline.model_calls(self.options.sampling.steps, self.options.sampling.scheduler, strength)
        return RealGuidance(task.train, strength)

    @property
    def _loaded(self) -> Pipeline:
        if self.pipeline is None:
            raise RuntimeError(f"synthetic set {self.name!r} was planned without its generator")
        return self.pipeline

    def generator(self, learner: TokenLearner | None) -> Pipeline:
        """Returns the generator, loaded with what `learner` has learned if the set learns tokens."""
        return self._loaded if learner is None else load_generator(self.settings, self.mesh, learner.files)

    def _token_plan(self, task: Task, shots: int | None, seed: int) -> TokenPlan:
        if self.vocabulary is None:
            raise RuntimeError(f"synthetic set {self.name!r} learns no tokens")
        if (shots, seed) not in self._token_plans:
            self._token_plans[shots, seed] = TokenPlan(self.settings, task, shots, seed, self.vocabulary)
        return self._token_plans[shots, seed]


def plan_set(settings: Settings, name: str, class_names: tuple[str, ...], mesh: Mesh) -> StudySet:
    """Returns a set of this name ("" is the config's own), without its generator.

    Raises:
      UserError: the set is unknown, or its tokens are to be learned with a generator that is not as it should be.
    """
    own = settings.of_set(name)
    vocabulary = Vocabulary(own) if own.inversion.mode in LEARNED_MODES else None
    names = class_names_of(own, class_names)
    options = SetOptions.from_config(own, names)
    sentences = plan_sentences(own.prompts, names, own.seed)
    if sentences is not None and sentences.ready is not None:
        options, sentences = dataclasses.replace(options, variants=sentences.ready), None
    return StudySet(name, own, options, mesh, class_names, vocabulary=vocabulary, sentences=sentences)


def load_sets(
    settings: Settings, names: Iterable[str], class_names: tuple[str, ...], mesh: Mesh, load: bool = True
) -> dict[str, StudySet]:
    """Returns the sets of these names in their order; sets of the same generator share one pipeline.

    Args:
      settings, class_names, mesh: see `plan_set`.
      names: "" is the config's own set.
      load: whether to load the generators of sets that serve all splits.

    Raises:
      UserError: a set is unknown, a generator is not as it should be, or its scheduler does not support the number of steps.
    """
    pipelines: dict[str, Pipeline] = {}
    sets = {}
    for name in names:
        planned = plan_set(settings, name, class_names, mesh)
        if load and not planned.learns:
            generator = planned.settings.generator
            key = canonical_json([getattr(generator, part) for part in _GENERATOR_KEYS])
            if key not in pipelines:
                pipelines[key] = load_generator(planned.settings, mesh)
            planned = dataclasses.replace(planned, pipeline=pipelines[key])
            description = pipelines[key].spec
            make_scheduler(generator.scheduler, description.scheduler, description.scheduler_place).tables(generator.steps)
        sets[name] = planned
    return sets
