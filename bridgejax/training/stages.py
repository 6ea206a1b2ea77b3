"""What happens at a stage's start and to its batches: the same for one run and for many seeds at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Sized
from types import MappingProxyType
from typing import cast

import jax
import numpy as np
import numpy.typing as npt
from flax import nnx
from jax.sharding import Mesh

from bridgejax import models
from bridgejax.data import Batch as StreamBatch
from bridgejax.data import Examples, Task
from bridgejax.errors import UserError
from bridgejax.identity import derive_seed
from bridgejax.mesh import ParameterRule
from bridgejax.models.cache_head import add_cache
from bridgejax.models.classifier import Classifier
from bridgejax.models.clip import ZeroShot, set_classes
from bridgejax.models.projection_head import add_projection, drop_projection
from bridgejax.models.prompt_head import learn_prompts
from bridgejax.models.reset import linear_heads
from bridgejax.recipes import Recipe, Stage, reset_depth
from bridgejax.training.augmentation import Augmentation
from bridgejax.training.batches import Array
from bridgejax.training.objectives import Objective, make_objective
from bridgejax.training.optimizers import LearningRateSchedule, OptimizerState, make_optimizer
from bridgejax.training.state import Arrays, TrainState
from bridgejax.training.traced import residual_branches
from bridgejax.training.train_step import TrainStep, make_train_step


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """A stage with its place in the run: it is stage `number`, and `start` steps come before it."""

    number: int
    stage: Stage
    start: int
    schedule: LearningRateSchedule

    @property
    def end(self) -> int:
        return self.start + self.stage.steps

    @property
    def validation_checks(self) -> frozenset[int]:
        """The steps, counted over all stages, after which an early stop evaluates on the validation images."""
        if self.stage.early_stop is None:
            return frozenset()
        parts = self.stage.early_stop_checks
        return frozenset(self.start + round(self.stage.steps * k / parts) for k in range(1, parts + 1)) - {self.start}


def stage_plans(recipe: Recipe) -> list[StagePlan]:
    """Returns the stages with their starts, and schedules that span stages which go on with one."""
    stages, plans, start = recipe.stages, [], 0
    for number, stage in enumerate(stages):
        first = max(k for k in range(number + 1) if stages[k].restart_schedule)
        last = next((k for k in range(number + 1, len(stages)) if stages[k].restart_schedule), len(stages))
        schedule = LearningRateSchedule.make(
            stage.schedule,
            stage.learning_rate,
            total=sum(each.steps for each in stages[first:last]),
            warmup=stages[first].warmup_steps,
            offset=sum(each.steps for each in stages[first:number]),
        )
        plans.append(StagePlan(number, stage, start, schedule))
        start += stage.steps
    return plans


def class_names_of(stage: Stage, task_names: Sequence[str], others: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Returns the classes that a stage's head has: the task's, or those of its synthetic images.

    Args:
      stage: the stage.
      task_names: the task's.
      others: as `RunInputs.other_classes`. They say nothing to a stage that learns without labels.
    """
    trains_on = others.get(stage.synthetic_source) if stage.data != "real" and not stage.contrasts else None
    return tuple(task_names if trains_on is None else trains_on)


def check_sources(
    recipe: Recipe,
    task: Task,
    synthetic: Mapping[str, Sized],
    eval_split: str = "test",
    others: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Checks that every image that a recipe asks for is there, and that its stages name the teachers that they need.

    Args:
      recipe: the recipe.
      task: the task.
      synthetic: the synthetic examples by the `Stage.synthetic_source` of the stages that train on them.
      eval_split: what the run is evaluated on, "test" or "validation".
      others: as `RunInputs.other_classes`.

    Raises:
      UserError: something is missing; the sentence names the stage.
    """
    for number, stage in enumerate(recipe.stages):
        where = f"stage {number + 1} of recipe {recipe.name!r}"
        if stage.data != "real" and not len(synthetic.get(stage.synthetic_source, ())):
            named = f" of set {stage.synthetic_source!r}" if stage.synthetic_source else ""
            advice = "give those that its filter keeps under this name" if stage.synthetic_filter else "generate a set first"
            raise UserError(f"{where} trains on synthetic images{named}, but there are none; {advice}.")
        if stage.data != "synthetic" and not len(task.train):
            raise UserError(f"{where} trains on real images, but task {task.name!r} has none; give it training images.")
        images = (len(synthetic[stage.synthetic_source]) if stage.data != "real" else 0) + (
            len(task.train) if stage.data != "synthetic" else 0
        )
        if stage.contrasts and stage.queue_size > images:
            raise UserError(
                f"{where} has a queue of {stage.queue_size:,} keys, more than its {images:,} images, so that an image would be "
                "told from itself; set queue_size to at most that, a multiple of the batch."
            )
        if needs_teacher(stage) and stage.teacher is None:
            raise UserError(
                f"{where} has the loss {stage.loss!r}, which needs a teacher; give the stage a `teacher`: the weights of a "
                "classifier, or 'pretrained'."
            )
        if stage.teacher is not None and not needs_teacher(stage):
            raise UserError(f"{where} names a teacher, but its loss is {stage.loss!r}; set loss='soft_target' or leave it out.")
        if stage.head == "cache" and not len(task.train):
            raise UserError(f"{where} makes a cache of real images, but task {task.name!r} has none; give it training images.")
        if stage.early_stop is not None and (task.validation is None or not len(task.validation)):
            raise UserError(
                f"{where} stops early by validation images, but task {task.name!r} has none; set "
                "task.validation_per_class to at least 1 (they are taken out of the training part)."
            )
        if class_names_of(stage, task.class_names, others) != task.class_names:
            _check_other_classes(f"{where} trains on synthetic images of other classes than the task's", stage, recipe, number)
        elif (
            number
            and not stage.restart_optimizer
            and (class_names_of(recipe.stages[number - 1], task.class_names, others) != task.class_names)
        ):
            raise UserError(
                f"{where} has another head than the stage before, whose moments do not fit; set restart_optimizer=True."
            )
    eval_part(task, eval_split)


def _check_other_classes(what: str, stage: Stage, recipe: Recipe, number: int) -> None:
    """Checks that nothing in a stage on other classes than the task's, which `what` says, goes by the task's."""
    unfit = {"head": "keep", "teacher": None, "early_stop": None, "restart_optimizer": True}
    for key, value in unfit.items():
        if getattr(stage, key) != value:
            raise UserError(f"{what}, with which {key}={getattr(stage, key)!r} does not go; leave it out.")
    if stage.data == "mixed":
        raise UserError(f"{what}, which do not mix with real ones; set data='synthetic'.")
    if number + 1 == len(recipe.stages):
        raise UserError(
            f"{what}, and is the last, so that nothing could be evaluated; let a stage on the task's classes follow."
        )


def eval_part(task: Task, split: str) -> Examples:
    """Returns the images of a task that "test" or "validation" names.

    Raises:
      UserError: there are none.
    """
    part = task.test if split == "test" else task.validation
    if part is None or not len(part):
        raise UserError(f"task {task.name!r} has no {split} images; give it some, or fewer shots.")
    return part


def check_model(recipe: Recipe, model: nnx.Module, changes_classes: bool = False) -> None:
    """Checks that the model has what the recipe resets or skips, or what is made new where a stage has other classes.

    Raises:
      UserError: it has no linear `head`, or too few blocks; the sentence names the recipe. Or none that can be skipped.
    """
    for stage in recipe.stages:
        if stage.stochastic_depth:
            residual_branches(model)
        if (stage.head != "keep" or stage.contrasts) and not isinstance(model, Classifier):
            raise UserError(
                f"recipe {recipe.name!r} changes the head, but a {type(model).__name__} is no Classifier; leave it out."
            )
        if stage.reset == "none" and not changes_classes:
            continue
        if not linear_heads(model):
            raise UserError(
                f"recipe {recipe.name!r} resets the head, but the model has no nnx.Linear named `head`; set reset='none', and "
                "train on the task's classes alone."
            )
        count = reset_depth(stage.reset)
        blocks = len(getattr(model, "blocks", ()))
        if count is not None and count > blocks:
            raise UserError(
                f"recipe {recipe.name!r} resets {count} blocks, but the model has {blocks}; set reset to 'head' or "
                f"'blocks:N' with N of at most {blocks}."
            )


def fresh_state(
    plan: StagePlan, model: nnx.Module, seed: int, mesh: Mesh | None = None, rules: Sequence[ParameterRule] = ()
) -> TrainState:
    """Returns the state in which `plan` starts from the weights of `model`, with new moments; `seed` is the run's.

    `mesh` and `rules` are as `TrainState.create` takes them.
    """
    stage = plan.stage
    optimizer = make_optimizer(
        stage.optimizer,
        plan.schedule,
        momentum=stage.momentum,
        weight_decay=stage.weight_decay,
        nesterov=stage.nesterov,
        clip_norm=stage.clip_norm,
    )
    seed = derive_seed(seed, "steps")
    return TrainState.create(
        model, optimizer, seed, trainable=stage.trainable, objective=objective_of(stage), mesh=mesh, rules=rules
    )


def enter(
    plan: StagePlan,
    before: TrainState | None,
    initial: nnx.Module,
    seed: int,
    change_head: Callable[[Stage, nnx.Module], None] = lambda *_: None,
    mesh: Mesh | None = None,
    rules: Sequence[ParameterRule] = (),
    fit_classes: Callable[[Stage, nnx.Module, int], None] = lambda *_: None,
) -> TrainState:
    """Returns the state with which a stage starts.

    Args:
      plan: the stage.
      before: the state at the end of the stage before; None for the first.
      initial: the model that the run started from; it is not changed.
      seed: the run's.
      change_head: makes of a model's head, in place, what a stage's `head` says: `make_head`.
      mesh, rules: as `TrainState.create` takes them.
      fit_classes: gives a model, in place, a head of a stage's classes, new ones drawn from a seed: `fit_head`.
    """
    stage = plan.stage
    model = nnx.clone(initial) if before is None else before.model
    head_seed = derive_seed(seed, "head", plan.number)
    fit_classes(stage, model, head_seed)
    start = initial
    if stage.reset == "initial_head":
        start = nnx.clone(initial)
        fit_classes(stage, start, head_seed)
    reset(model, stage.reset, head_seed, start)
    change_head(stage, model)
    state = fresh_state(plan, model, seed, mesh, rules)
    if before is None:
        return state
    if stage.batch_statistics == "initial":
        state = dataclasses.replace(state, other={**state.other, **_batch_statistics(initial)})
    state = dataclasses.replace(state, step=before.step)
    if not stage.restart_optimizer:
        fresh, old = cast(OptimizerState, state.opt_state), cast(OptimizerState, before.opt_state)
        state = dataclasses.replace(state, opt_state=fresh._replace(moments=old.moments))
    return state


def reset(model: nnx.Module, what: str, seed: int, start: nnx.Module) -> None:
    """Starts anew, in place, what a stage's `reset` names; the model's structure stays.

    Args:
      model: the model that the stage trains.
      what: `Stage.reset`.
      seed: of what is drawn.
      start: the model of the run's start, with a head of the stage's classes; only "initial_head" takes from it.
    """
    drop_projection(model)
    if what == "none":
        return
    classifier, key = cast(Classifier, model), jax.random.key(seed)
    blocks = reset_depth(what)
    if what == "all":
        models.reinitialise(classifier, key)
    elif what == "initial_head":
        classifier.head = nnx.clone(cast(Classifier, start).head)
    elif blocks is not None:
        models.reset_blocks(classifier, blocks, key)
    else:
        models.reset_head(classifier, key)


def fit_head(model: nnx.Module, class_names: Sequence[str], task_names: Sequence[str], seed: int) -> None:
    """Gives a model whose head is of other classes a head of these, in place: of texts as before, or a new one of `seed`.

    Args:
      model: a `Classifier`; one whose classes have no names is taken to have the task's.
      class_names: in order.
      task_names: the task's.
      seed: of what is drawn.
    """
    classifier, names = cast(Classifier, model), tuple(class_names)
    drop_projection(model)
    if names == (classifier.class_names or tuple(task_names)):
        return
    if isinstance(classifier, ZeroShot) and classifier.templates:
        set_classes(classifier, names, classifier.templates)
    else:
        models.reset_head(classifier, jax.random.key(seed), len(names))
        classifier.class_names = names


def make_head(
    stage: Stage,
    model: nnx.Module,
    class_names: Sequence[str],
    shots: Callable[[Classifier], tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]],
    seed: int,
) -> None:
    """Makes of a model's head, in place, what a stage's `head` says.

    Args:
      stage: the stage.
      model: a `Classifier`.
      class_names: the stage's.
      shots: gives the features, float32 [k, d], and labels, int32 [k], of the real training images.
      seed: of what is drawn.

    Raises:
      UserError: the model has no such head.
    """
    classifier = cast(Classifier, model)
    drop_projection(model)
    if stage.contrasts:
        add_projection(classifier, stage.projection_width, jax.random.key(derive_seed(seed, "projection")))
    elif stage.head == "cache":
        add_cache(classifier, *shots(classifier), weight=stage.cache_weight, sharpness=stage.cache_sharpness)
    elif stage.head == "prompt":
        learn_prompts(classifier, class_names, stage.context_tokens, jax.random.key(derive_seed(seed, "context")))


def objective_of(stage: Stage) -> Objective:
    """Returns the objective that a stage names, with the stage's options."""
    numbers = {key: value for key, value in vars(stage).items() if isinstance(value, int | float)}
    return make_objective(stage.loss, **numbers)


def needs_teacher(stage: Stage) -> bool:
    """Returns whether a stage's objective asks for a teacher's logits."""
    return "teacher_logits" in objective_of(stage).required


def step_of(stage: Stage, mesh: Mesh | None, dtype: str = "float32", remat: bool = False, accumulate: int = 1) -> TrainStep:
    """Returns the jitted step of a stage; `dtype`, `remat` and `accumulate` as in `make_train_step`."""
    return make_train_step(
        objective_of(stage),
        mixup_alpha=stage.mixup_alpha,
        cutmix_alpha=stage.cutmix_alpha,
        cutmix_share=stage.cutmix_share,
        augmentation=Augmentation(stage.erasing, stage.erasing_fill, stage.randaugment, stage.randaugment_layers),
        stochastic_depth=stage.stochastic_depth,
        batch_norm=stage.batch_norm,
        mesh=mesh,
        dtype=dtype,
        remat=remat,
        accumulate=accumulate,
        shares_program=True,
    )


def sources_of(stage: Stage, real: Examples, synthetic: Mapping[str, Examples]) -> tuple[list[Examples], list[float] | None]:
    """Returns the example sets of a stage's stream, real before synthetic, and their shares (None: the union)."""
    sources = [] if stage.data == "synthetic" else [real]
    if stage.data != "real":
        images = synthetic[stage.synthetic_source]
        sources.append(images if stage.synthetic_side is None else dataclasses.replace(images, side=stage.synthetic_side))
    share = stage.synthetic_share
    return sources, None if share is None else [1.0 - share, share]


def with_loss_weights(batch: StreamBatch, stage: Stage, sources: Sequence[Sized]) -> dict[str, Array]:
    """Returns a stream's batch with the mask that gives each row its weight in the loss.

    Without `synthetic_loss` a mask of ones is left out, so that batch statistics need no masking. With it (w), and s the
    share of synthetic images in the stream, a real row weighs (1 - w) / (1 - s) and a synthetic one w / s: in a batch that
    holds its shares exactly, the loss is (1 - w) times the mean over the real rows plus w times that over the synthetic ones.
    """
    parts = dict(cast(Mapping[str, Array], batch))
    source = parts.pop("source", None)
    mask = parts.pop("mask", None)
    if stage.synthetic_loss is not None:
        if source is None:
            raise UserError("a stage has synthetic_loss, but its stream does not say which images are synthetic ('source').")
        sizes = [len(each) for each in sources]
        share = sizes[1] / sum(sizes) if stage.synthetic_share is None else stage.synthetic_share
        weights = [_ratio(1.0 - stage.synthetic_loss, 1.0 - share), _ratio(stage.synthetic_loss, share)]
        rows = np.asarray(weights, np.float32)[np.asarray(source)]
        parts["mask"] = rows if mask is None else rows * mask
    elif mask is not None and not np.all(mask == 1):
        parts["mask"] = mask
    return parts


def soft_rows(logits: Array, batch: StreamBatch, stage: Stage) -> Array:
    """Returns a teacher's logits of a batch, [n, classes]; rows that do not follow it have the label for certain."""
    if stage.soft_images == "all":
        return logits
    labels = jax.nn.one_hot(batch["label"], logits.shape[-1], dtype=bool)
    certain = jax.numpy.where(labels, 0.0, -1e30)  # a softmax of exact ones and zeros, at any temperature
    return jax.numpy.where(np.asarray(batch["source"])[:, None] == 1, logits, certain)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 1.0


def _batch_statistics(model: nnx.Module) -> Arrays:
    """Returns copies of a model's running statistics by dotted path."""
    statistics = nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
    return {".".join(map(str, path)): jax.numpy.array(leaf[...], copy=True) for path, leaf in statistics}
