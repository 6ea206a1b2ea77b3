"""Which runs a study has, and what each of them depends on: all of it checked before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from bridgejax.config import Settings
from bridgejax.data import Task
from bridgejax.errors import UserError
from bridgejax.identity import derive_seed, digest
from bridgejax.recipes import Recipe
from bridgejax.studies.label_space import class_names_of
from bridgejax.studies.set_filters import SetFilter
from bridgejax.studies.study_sets import StudySet, load_sets
from bridgejax.studies.tuned_rates import TuningScope, check_scope, study_recipes

if TYPE_CHECKING:
    from bridgejax.models.classifier import Classifier
    from bridgejax.training import RunOptions
    from bridgejax.training.teachers import ClassifierTeacher

TEST, VALIDATION = "test", "validation"  # eval splits


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """An arm (a recipe, shots per class, synthetic images per class) with one seed."""

    arm: str
    seed: int
    shots: int | None
    per_class: int

    @property
    def folder(self) -> str:
        """The run's folder below `runs/`."""
        return f"{self.arm}/shots-{self.shots_text}_per_class-{self.per_class}_seed-{self.seed}"

    @property
    def shots_text(self) -> str:
        """The number of shots, or "all"."""
        return "all" if self.shots is None else str(self.shots)


class TaskSplits:
    """The task of a config with the real images that each seed selects; every split is loaded once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[tuple[int | None, int], Task] = {}

    def load(self, shots: int | None, seed: int) -> Task:
        """Returns the task with `shots` real training images per class (None: all), as this seed of the study selects them.

        Raises:
          UserError: the source or one of its images is not as it should be, or there are too few images.
        """
        from bridgejax.data import load_task

        if (shots, seed) not in self._loaded:
            task = self._settings.task
            self._loaded[shots, seed] = load_task(
                task.source,
                shots=shots,
                seed=derive_seed(self._settings.seed, "split", seed),
                class_names=task.class_names or None,
                validation_per_class=task.validation_per_class,
                data_dir=task.data_dir,
            )
        return self._loaded[shots, seed]


@dataclasses.dataclass(frozen=True)
class StudyPlan:
    """Everything that a config names, loaded once."""

    settings: Settings  # as given
    class_names: tuple[str, ...]  # of the task, in their order
    recipes: Mapping[str, Recipe]  # by arm
    classifier_digest: str  # of the pretrained weights and of the templates of their head
    runs: tuple[StudyRun, ...]  # one for each line of the results
    sets: dict[str, StudySet]  # the synthetic sets that the recipes use, by name
    mesh: Mesh  # the devices that train
    generation_mesh: Mesh  # the devices of this process, which generates its own shards on them
    splits: TaskSplits  # the real images
    eval_split: str = TEST  # the part of the task that accuracies are of, `TEST` or `VALIDATION`

    @property
    def per_class(self) -> int:
        """The largest number of synthetic images per class that a run sees."""
        return max(run.per_class for run in self.runs)

    def filter(self, name: str) -> SetFilter:
        """Returns what judges the images of a synthetic set."""
        of, weights = self.sets[name], self.classifier_digest
        return SetFilter(self.settings, of.options.class_names, weights, self.generation_mesh, of.is_of_task)

    def other_classes(self, recipe: Recipe) -> dict[str, tuple[str, ...]]:
        """Returns the class names of a recipe's synthetic images that are not of the task's, by `Stage.synthetic_source`."""
        sets = {source: self.sets[stage.synthetic_set] for source, stage in recipe.synthetic_stages.items()}
        return {source: each.options.class_names for source, each in sets.items() if not each.is_of_task}

    def task(self, shots: int | None, seed: int) -> Task:
        """Returns the task with the real images that this seed selects."""
        return self.splits.load(shots, seed)

    def trained(self, run: StudyRun) -> StudyRun:
        """Returns the run that is trained for this one: without synthetic images (`per_class` 0) one serves every volume."""
        return run if self.recipes[run.arm].needs_synthetic else dataclasses.replace(run, per_class=0)

    def trainings(self) -> tuple[StudyRun, ...]:
        """Returns the runs that are trained, each once."""
        return tuple(dict.fromkeys(map(self.trained, self.runs)))

    def teachers(self, recipe: Recipe) -> dict[str, ClassifierTeacher]:
        """Returns the teachers that a recipe's stages name, by name."""
        from bridgejax.training.teachers import load_teachers

        return load_teachers(recipe, self.class_names, self.settings.classifier.weights, self.settings.classifier.templates)

    def identity(self, run: StudyRun) -> str:
        """Returns the digest of everything that decides a run's result."""
        settings = self.settings
        recipe = self.recipes[run.arm]
        task = self.task(run.shots, run.seed)
        parts: dict[str, object] = {
            "recipe": recipe.to_dict(),
            "task": task.digest if self.eval_split == TEST else digest([self.eval_split, task.digest]),
            "classifier": [self.classifier_digest, settings.classifier.image_size, settings.classifier.crop],
            "training": [settings.training.batch_size, settings.training.eval_batch_size, settings.training.evaluations],
            "seed": [settings.seed, run.seed],
        }
        if teachers := self.teachers(recipe):
            parts["teachers"] = {name: teacher.digest for name, teacher in teachers.items()}
        if settings.training.dtype != "float32":
            parts["dtype"] = settings.training.dtype
        if settings.training.accumulate > 1:
            parts["accumulate"] = settings.training.accumulate
        if recipe.needs_synthetic:
            parts["synthetic"] = {
                name: self.sets[name].identity(task, run.shots, run.seed, run.per_class) for name in recipe.synthetic_sets
            }
        filters = [
            (stage.synthetic_filter, self.filter(stage.synthetic_set)) for stage in recipe.stages if stage.synthetic_filter
        ]
        if kept := {(rules, judge.class_names): judge.identity(rules) for rules, judge in filters}:
            parts["filters"] = list(kept.values())
        return digest(parts)


def run_options(settings: Settings, mesh: Mesh | None, eval_split: str = TEST) -> RunOptions:
    """Returns how the runs of a config are carried out on a mesh, and evaluated on a split.

    Raises:
      UserError: batches do not split over the mesh's devices.
    """
    from bridgejax.mesh import own_rules
    from bridgejax.training import RunOptions

    training, classifier = settings.training, settings.classifier
    return RunOptions(
        batch_size=training.batch_size,
        eval_batch_size=training.eval_batch_size,
        image_size=classifier.image_size,
        crop=classifier.crop,
        evaluations=training.evaluations,
        eval_split=eval_split,
        checkpoint_seconds=training.checkpoint_seconds,
        keep_final=False,
        mesh=mesh,
        mesh_rules=own_rules(settings.mesh_rules),
        dtype=training.dtype,
        remat=training.remat,
        accumulate=training.accumulate,
    )


def plan_study(settings: Settings, load_generators: bool = True, trains: bool = True) -> StudyPlan:
    """Loads and checks what a config names.

    Args:
      settings: the config.
      load_generators: whether to load the generators of the synthetic sets too.
      trains: whether anything is learned from real images, so that they and what recipes ask for are checked.

    Raises:
      UserError: a class, a recipe, a folder or a weight that the config names is not as it should be.
    """
    from bridgejax.data.tasks import NAMES_ALONE
    from bridgejax.mesh import generation_mesh, make_mesh
    from bridgejax.models.registry import classifier_digest
    from bridgejax.training.event_log import check_installed

    if trains and settings.task.source == NAMES_ALONE:
        raise UserError(
            f"task.source is {NAMES_ALONE!r}, which has no real images to train on or to test with; use `bridgejax generate`, "
            "or name a source that has images, for instance folder:PATH."
        )
    shots = settings.study.shots or (settings.task.shots,)
    mesh, own_mesh = make_mesh(settings.mesh), generation_mesh(settings.mesh)
    recipes = study_recipes(settings)
    weights, templates = classifier_digest(settings.classifier.weights), settings.classifier.templates
    if templates:
        weights = digest([weights, templates])
    splits = TaskSplits(settings)
    tasks = [splits.load(count, 0) for count in shots]  # a wrong folder or too many shots shows now, not after generation
    class_names = tasks[0].class_names
    names = dict.fromkeys(name for recipe in recipes.values() for name in recipe.synthetic_sets)
    if trains:
        run_options(settings, mesh)
        if settings.training.tensorboard:
            check_installed()
        if settings.training.tuned is not None:
            check_scope(settings.training.tuned, tuning_scope(settings, tasks[0], weights))
        classes = {name: class_names_of(settings.of_set(name), class_names) for name in names}
        _check_recipes(settings, recipes.values(), tasks, classes)
        for stage in (stage for recipe in recipes.values() for stage in recipe.synthetic_stages.values()):
            own = classes[stage.synthetic_set]
            SetFilter(settings, own, weights, own_mesh, own == class_names).check(stage.synthetic_filter)
    sets = load_sets(settings, names, class_names, own_mesh, load_generators)
    for each in sets.values():
        for count, task in zip(shots, tasks, strict=True):
            each.guidance(task, count)
    return StudyPlan(settings, class_names, recipes, weights, study_runs(settings), sets, mesh, own_mesh, splits)


def initial_classifier(settings: Settings, class_names: Sequence[str], seed: int = 0) -> Classifier:
    """Returns the classifier from which runs start: with the head of `classifier.templates`, or a new one of `seed`.

    Raises:
      UserError: as `load_classifier`.
    """
    from bridgejax.models import load_classifier
    from bridgejax.models.label_names import name_head

    weights, templates = settings.classifier.weights, settings.classifier.templates
    if templates:
        return load_classifier(weights, class_names=class_names, templates=templates)
    model = load_classifier(weights, num_classes=len(class_names), seed=seed)
    return name_head(model, class_names, derive_seed(seed, "head"))


def study_runs(settings: Settings) -> tuple[StudyRun, ...]:
    """Returns the runs of a config: for each shot count and volume, each arm with each seed."""
    return tuple(
        StudyRun(arm, seed, shots, volume)
        for shots in settings.study.shots or (settings.task.shots,)
        for volume in settings.study.per_class or (settings.synthetic.per_class,)
        for arm in settings.arms
        for seed in range(settings.study.seeds)
    )


def tuning_scope(settings: Settings, task: Task, weights: str) -> TuningScope:
    """Returns what tuned rates hold for: the task, its images, the weights' digest, each arm's recipe but for what is tuned."""
    from bridgejax.data.tasks import pool_digest

    source = settings.task
    return TuningScope(
        task=task.name,
        class_names=task.class_names,
        images=pool_digest(source.source, class_names=source.class_names or None, data_dir=source.data_dir),
        shots=tuple(sorted({run.shots for run in study_runs(settings)}, key=str)),
        classifier=(weights, settings.classifier.image_size, settings.classifier.crop),
        batch_size=settings.training.batch_size,
        recipes=TuningScope.recipe_digests(settings),
    )


def _no_shots(_: Classifier) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Stands in for the features and labels of the real images where only a head's parts are asked for."""
    return np.ones((1, 1), np.float32), np.zeros(1, np.int32)


def _check_recipes(
    settings: Settings, recipes: Collection[Recipe], tasks: Sequence[Task], classes: Mapping[str, tuple[str, ...]]
) -> None:
    """Checks that the tasks and the classifier have what the recipes ask for; the synthetic images are yet to be made.

    `classes` are the class names of the synthetic sets.
    """
    from flax import nnx

    from bridgejax.training import stages
    from bridgejax.training.state import Structure, select_parameters
    from bridgejax.training.teachers import load_teachers

    names = tasks[0].class_names
    model = initial_classifier(settings, names) if settings.classifier.templates else None
    others = {
        recipe.name: {
            source: classes[stage.synthetic_set]
            for source, stage in recipe.synthetic_stages.items()
            if classes[stage.synthetic_set] != names
        }
        for recipe in recipes
    }
    per_class = min(settings.study.per_class or (settings.synthetic.per_class,))
    for recipe in recipes:
        # As many as there will be before filters, of any classes.
        to_come = dict.fromkeys(recipe.synthetic_stages, range(per_class * len(names)))
        for task in tasks:
            stages.check_sources(recipe, task, to_come, others=others[recipe.name])
        load_teachers(recipe, names, settings.classifier.weights, settings.classifier.templates)
    # Any classifier has a head; only for recipes that ask for more is it loaded.
    plain = {("none", ("all",)), ("head", ("all",)), ("none", ("head",)), ("head", ("head",))}
    asking = [
        recipe
        for recipe in recipes
        if others[recipe.name]
        or any((stage.reset, stage.trainable) not in plain or stage.head != "keep" for stage in recipe.stages)
    ]
    if not asking:
        return
    model = model or initial_classifier(settings, names)
    for recipe in asking:
        stages.check_model(recipe, model, bool(others[recipe.name]))
        trial = nnx.clone(model)
        for stage in recipe.stages:
            own = stages.class_names_of(stage, names, others[recipe.name])
            if others[recipe.name]:
                stages.fit_head(trial, own, names, 0)
            stages.make_head(stage, trial, own, _no_shots, 0)
            select_parameters(Structure.of(trial)[2], stage.trainable)
