"""The jitted training step.

One program serves every recipe of a shape: learning rate, schedule, weight decay, the objective's options and Mixup's draw are
arguments, not constants.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, Sharding

from bridgejax.compilation import compiler_options
from bridgejax.errors import UserError, whole_number
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.mesh import context_of, data_sharding, data_size, replicated
from bridgejax.training import batches, mixing, traced
from bridgejax.training.augmentation import Augmentation, augmented, row_keys
from bridgejax.training.feed import PlacedBatch
from bridgejax.training.mixing import MixRule, MixupDraw, mixed
from bridgejax.training.objectives import Objective, make_objective, masked_mean
from bridgejax.training.optimizers import Optimizer
from bridgejax.training.option_checks import check_number
from bridgejax.training.state import Arrays, TrainState, on_mesh

BATCH_NORM_MODES = ("train", "frozen")
NO_AUGMENTATION = Augmentation()

Metrics = dict[str, jax.Array]
# Of a loss: the outputs, the arrays that are not trained as the call left them, and what else is reported.
_Aside = tuple[jax.Array, Arrays, Metrics]
_Derive = Callable[[Arrays, Arrays, Arrays, MixupDraw | None], tuple[tuple[jax.Array, _Aside], Arrays]]
StepArguments = tuple[TrainState, dict[str, jax.Array], Objective, MixupDraw | None]
StepFunction = Callable[[TrainState, dict[str, jax.Array], Objective, MixupDraw | None], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What a step's program is compiled for; all else is an argument. The fields are those of `make_train_step`."""

    batch_norm: str = "train"
    mesh: Mesh | None = None
    dtype: str = "float32"
    remat: bool = False
    accumulate: int = 1
    augmentation: Augmentation = NO_AUGMENTATION
    stochastic_depth: float = 0.0


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    objective: Objective,
    mixup: MixupDraw | None,
    *,
    settings: StepSettings,
    widths: dict[Hashable, int],
    layout: Mapping[str, Sharding] | None = None,
) -> tuple[TrainState, Metrics]:
    """Takes one optimiser step; returns the state and float32 scalars. `TrainStep` checks and places what goes in.

    Args:
      state: the state before the step.
      batch: what the objective requires, on the device, and perhaps "mask".
      objective: what is minimised.
      mixup: this step's draw; None mixes nothing. Of accumulated parts it is a draw for each, stacked.
      settings: what the program is compiled for.
      widths: where each trace notes the width of the objective's outputs (the number of classes) by `shape_key`.
      layout: how each parameter, and so its gradient, lies on the mesh.
    """

    key = jax.random.fold_in(state.key, state.step)
    if settings.augmentation.changes or settings.stochastic_depth:
        batch = {**batch, "row": jnp.arange(batch["image"].shape[0], dtype=jnp.int32)}

    def loss_of(params: Arrays, other: Arrays, part: Arrays, draw: MixupDraw | None) -> tuple[jax.Array, _Aside]:
        mask, mix = part.get("mask"), functools.partial(mixed, draw=draw)
        model = state.structure.merge({**params, **other})
        if settings.augmentation.changes:
            images = augmented(key, part["row"], part["image"], model, settings.augmentation)
        else:
            images = batches.normalise(part["image"], model)
        images = mix(without_padding(images, mask))
        second = objective.companion(state.objective_state)
        companion = None if second is None else state.structure.merge({**params, **other, **second})
        with contextlib.ExitStack() as modes:
            if settings.stochastic_depth:
                keys = row_keys(key, part["row"], 2)
                modes.enter_context(traced.skipping_branches(model, settings.stochastic_depth, keys))
            for each in (model,) if companion is None else (model, companion):
                modes.enter_context(
                    traced.training_mode(
                        each, batch_norm=settings.batch_norm, dtype=settings.dtype, remat=settings.remat, mask=mask
                    )
                )
            shown = traced.lowered(images, settings.dtype)
            outputs = objective.outputs(model, shown, part, state.objective_state, companion)
        losses = objective.losses(outputs, part, mix, state.objective_state)
        after = traced.other_arrays(state.structure, model, other)
        return masked_mean(losses, mask), (outputs, after, objective.metrics(outputs, part, state.objective_state))

    derive: _Derive = jax.value_and_grad(loss_of, has_aux=True)
    value_fn = lambda params: loss_of(params, state.other, batch, mixup)[0]  # noqa: E731
    if settings.accumulate > 1:
        derive = accumulated(derive, settings, layout)
        value_fn = lambda params: derive(params, state.other, batch, mixup)[0][0]  # noqa: E731
    (loss, (outputs, other, reported)), gradients = derive(state.params, state.other, batch, mixup)
    # What optax's transformations with extra arguments may ask for: Polyak's step, a plateau's schedule, line searches.
    extra = {"value": loss, "grad": gradients, "value_fn": value_fn}
    update = optax.with_extra_args_support(state.optimizer).update
    updates, opt_state = update(gradients, state.opt_state, state.params, **extra)
    params = optax.apply_updates(state.params, updates)

    metrics = {"loss": loss, **reported, "gradient_norm": optax.tree.norm(gradients)}
    if isinstance(state.optimizer, Optimizer):
        metrics["learning_rate"] = state.optimizer.learning_rate(state.opt_state)
    widths[shape_key(state, batch["image"])] = outputs.shape[-1]
    after = dataclasses.replace(
        state,
        params=params,
        other=other,
        opt_state=opt_state,
        objective_state=objective.update(state.objective_state, outputs, batch, params),
        step=state.step + 1,
    )
    return after, metrics


def accumulated(derive: _Derive, settings: StepSettings, layout: Mapping[str, Sharding] | None) -> _Derive:
    """Returns a function like `derive`, which is called on one part of a batch after the other.

    The loss is that of the whole batch: each part's mean counts by the weight of its rows. What is not trained goes from part
    to part, so batch statistics are those of the parts. Each device takes its parts from the rows that it holds.
    """
    count, devices = settings.accumulate, data_size(settings.mesh)
    split = None if settings.mesh is None else data_sharding(settings.mesh, axis=1)

    def held(tree: Arrays) -> Arrays:
        return tree if layout is None else jax.lax.with_sharding_constraint(tree, dict(layout))

    def derive_by_parts(
        params: Arrays, other: Arrays, batch: Arrays, draws: MixupDraw | None
    ) -> tuple[tuple[jax.Array, _Aside], Arrays]:
        parts: Arrays = {name: batches.in_parts(rows, count, devices) for name, rows in batch.items()}
        if split is not None:
            parts = {name: jax.lax.with_sharding_constraint(rows, split) for name, rows in parts.items()}
        weights = jnp.sum(parts["mask"].astype(jnp.float32), axis=1) if "mask" in parts else jnp.ones(count, jnp.float32)
        shares = weights / jnp.maximum(jnp.sum(weights), jnp.finfo(jnp.float32).tiny)

        def add(
            sums: tuple[jax.Array, Arrays, Arrays], given: tuple[Arrays, MixupDraw | None, jax.Array]
        ) -> tuple[tuple[jax.Array, Arrays, Arrays], tuple[jax.Array, Metrics]]:
            loss, gradients, other = sums
            part, draw, share = given
            (value, (outputs, other, reported)), derived = derive(params, other, part, draw)
            gradients = jax.tree.map(lambda total, x: total + share.astype(x.dtype) * x, gradients, derived)
            return (loss + share * value, held(gradients), other), (outputs, {k: share * x for k, x in reported.items()})

        start = (jnp.zeros((), jnp.float32), held(jax.tree.map(jnp.zeros_like, params)), other)
        (loss, gradients, other), (outputs, reported) = jax.lax.scan(add, start, (parts, draws, shares))
        means = {name: jnp.sum(values, axis=0) for name, values in reported.items()}
        return (loss, (batches.of_parts(outputs, devices), other, means)), gradients

    return derive_by_parts


def without_padding(images: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns the images with zeros in rows of mask 0, which may hold anything: not even 0 times NaN may reach a gradient."""
    return images if mask is None else jnp.where(mask.reshape(mask.shape + (1,) * (images.ndim - 1)) > 0, images, 0)


def shape_key(state: TrainState, images: jax.Array | jax.ShapeDtypeStruct, axis: int = 0) -> Hashable:
    """Returns what a model and images have in common with others that one trace serves; `axis` is that of the rows."""
    return state.structure, images.shape[axis:], images.dtype


class StepProgram:
    """`train_step` for one `StepSettings`.

    Attributes:
      function: pure, (state, batch, objective, mixup) → (state, metrics).
      widths: the number of classes by `shape_key`, once traced.
    """

    def __init__(self, settings: StepSettings) -> None:
        self.widths: dict[Hashable, int] = {}
        self._step = functools.partial(train_step, settings=settings, widths=self.widths)
        self.function: StepFunction = self._step
        self._settings = settings
        self._jitted: dict[Hashable, jax.stages.Wrapped] = {}

    def jitted(self, state: TrainState) -> jax.stages.Wrapped:
        """Returns `function` jitted for states that lie on the settings' mesh as this one does; it donates the state."""
        mesh = self._settings.mesh
        jit = functools.partial(jax.jit, donate_argnums=0, compiler_options=step_compiler_options(self._settings.remat))
        if mesh is None:
            return self._jitted.setdefault(None, jit(self.function))
        arrays, tree = jax.tree.flatten(state)
        places = tuple(array.sharding for array in arrays)
        key = (tree, places)
        if key not in self._jitted:
            layout: TrainState = jax.tree.unflatten(tree, places)
            everywhere, split = replicated(mesh), data_sharding(mesh)
            self._jitted[key] = jit(
                functools.partial(self._step, layout=layout.params),
                in_shardings=(layout, split, everywhere, everywhere),
                out_shardings=(layout, everywhere),
            )
        return self._jitted[key]


step_program = functools.cache(StepProgram)


def step_compiler_options(remat: bool) -> dict[str, str]:
    """Returns the compiler options of a training program."""
    options = compiler_options(reduces=True)
    if not remat or jax.default_backend() != "cpu":
        return options
    # XLA's CPU compiler takes the barriers out that keep what is computed again apart from what was computed first, and then
    # merges the two; left in, the memory falls as it does on accelerators.
    return {**options, "xla_disable_hlo_passes": "cse_barrier_expander"}


class TrainStep:
    """`state, metrics = step(state, batch)`; see `make_train_step`.

    Attributes:
      objective: what is minimised.
      rule: how it mixes.
      mixes: whether the program mixes. With both α = 0 its λ is 1, which leaves images and targets as they are, bit for bit.
      settings: what the program is compiled for.
    """

    def __init__(self, objective: Objective, rule: MixRule, settings: StepSettings, *, mixes: bool) -> None:
        self.objective, self.settings, self.mixes = objective, settings, mixes
        self.rule = MixRule(*map(np.float32, rule))
        self.program = step_program(settings)
        self._seen: set[Hashable] = set()

    @under_jax_defaults
    def __call__(self, state: TrainState, batch: object) -> tuple[TrainState, Metrics]:
        if not isinstance(state, TrainState):
            raise UserError(f"the state is a {type(state).__name__}; make it with TrainState.create(model, optimizer).")
        state.check_alive()
        with context_of(self.settings.mesh):
            ready = batch if isinstance(batch, PlacedBatch) else self.place(batch)
            arguments = self._arguments(state, ready)
            self._check_labels(ready, arguments)
            after: tuple[TrainState, Metrics] = self.program.jitted(arguments[0])(*arguments)
        return after

    @under_jax_defaults
    def place(self, batch: object) -> PlacedBatch:
        """Checks a batch and begins its transfer to the device; the call alone reports labels out of range."""
        parts = batches.checked_batch(batch, self.objective.required)
        return PlacedBatch(batches.place(parts, self.settings.mesh, self.settings.accumulate), parts)

    @under_jax_defaults
    def lower(self, state: TrainState, batch: object) -> jax.stages.Lowered:
        """Returns the step lowered for a state and a batch, to be looked into; the state stays usable."""
        arguments = self._arguments(state, self.place(batch))
        return self.program.jitted(arguments[0]).lower(*arguments)

    def _arguments(self, state: TrainState, ready: PlacedBatch) -> StepArguments:
        mesh = self.settings.mesh
        if mesh is not None:
            state = on_mesh(state, mesh)
        return state, ready.parts, self.objective, self._draw(state, ready.parts)

    def _draw(self, state: TrainState, parts: dict[str, jax.Array]) -> MixupDraw | None:
        if not self.mixes:
            return None
        of = parts["image"].shape[0], self.settings.mesh, self.settings.accumulate
        if self.rule.mixes:
            size = self.rule.cut_size(parts["image"].shape)
            return mixing.draw_program(*of, size)(state.key, state.step, self.rule, parts.get("mask"))
        return mixing.no_mixup(*of)

    def _check_labels(self, ready: PlacedBatch, arguments: StepArguments) -> None:
        """Checks labels on the host at every step, and those already on a device once: later it would wait for each transfer.

        The program itself turns the loss into NaN where a label is out of range.
        """
        if "label" not in ready.given:
            return
        label, key = ready.given["label"], shape_key(arguments[0], ready.parts["image"])
        is_new = key not in self._seen
        if is_new and key not in self.program.widths:
            self.program.jitted(arguments[0]).trace(*arguments)  # the call reuses it
        if not isinstance(label, jax.Array) or (is_new and label.is_fully_addressable):
            batches.check_labels(ready.given, self.program.widths[key])
        self._seen.add(key)


def make_train_step(
    loss: str | Objective = "cross_entropy",
    *,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    cutmix_share: float = 0.5,
    augmentation: Augmentation = NO_AUGMENTATION,
    stochastic_depth: float = 0.0,
    soft_weight: float = 0.5,
    temperature: float = 2.0,
    batch_norm: str = "train",
    mesh: Mesh | None = None,
    dtype: object = None,
    remat: bool = False,
    accumulate: int = 1,
    shares_program: bool = False,
) -> TrainStep:
    """Returns `step(state, batch) -> (state, metrics)`: jitted, donating the state.

    The batch holds "image" (uint8 [n, h, w, 3], normalised on the device by `model.preprocessing`, or float taken as
    normalised), "label" (int [n]), if wanted "mask" (float [n]; rows of mask 0 count nothing, also not in batch
    statistics), and for "soft_target" "teacher_logits" (float [n, classes]). Other keys are ignored. With a mesh the batch
    is split over "data" and "fsdp", and the state stays as `TrainState.create` laid it out; one that is not on the mesh is
    laid out by the built-in rules.

    The metrics are float32 scalars on the device: "loss" (nats, masked mean, before the update), "accuracy" (of `label`,
    on the images as the network saw them), "gradient_norm", and "learning_rate" where the optimiser reports it.

    Args:
      loss: "cross_entropy", "soft_target" = (1 - w)·CE(label) + w·CE(softmax(teacher / T)) (He et al. 2023), or an
        `Objective`, which has its options itself.
      label_smoothing: in [0, 1], as in `torch.nn.CrossEntropyLoss`; for the hard targets.
      mixup_alpha: α ≥ 0; λ ~ Beta(α, α), one per batch, and the partners come from the state's key folded with the step.
      cutmix_alpha: α ≥ 0 of CutMix: 1 - λ, λ ~ Beta(α, α), is the share of a box, the same for the batch, that images take from
        their partners; targets are mixed by the box's exact area.
      cutmix_share: in [0, 1]; where both α are above 0, how often a batch has CutMix in Mixup's place.
      augmentation: what changes each image by itself, before that.
      stochastic_depth: in [0, 1): how often a row skips the residual branches of the last of the network's `blocks` (Huang et
        al. 2016, arXiv 1603.09382); evenly less towards the first, which it never skips. What stays is scaled up in turn.
      soft_weight: w in [0, 1].
      temperature: T > 0, of the teacher alone.
      batch_norm: "train" (batch statistics, running ones updated) or "frozen" (running statistics used and left as they are);
        dropout is on in both.
      mesh: the device mesh, or None.
      dtype: "float32" (None) or "bfloat16": what the network computes in, forward and backward. Parameters, their gradients,
        the optimiser's state, batch norms and the loss are float32 either way.
      remat: keep for the backward pass only the input of each of the network's `blocks`, and compute the rest again there:
        the same numbers for less memory and up to a third more arithmetic.
      accumulate: parts of a batch that go through the network one after the other, for one update. The loss and its gradient
        are those of the whole batch; batch statistics, Mixup's draw and dropout are of each part.
      shares_program: use the program that can mix even where α is 0, so that steps with and without Mixup compile once.

    Raises:
      UserError: an unknown name or a value out of range; in the call, a batch without what the loss needs, labels
        outside [0, classes), uint8 images without `preprocessing`, `remat` of a network without `blocks`, or
        `stochastic_depth` of one whose blocks name no residual branches.
    """
    options = {"label_smoothing": label_smoothing, "soft_weight": soft_weight, "temperature": temperature}
    if not isinstance(loss, Objective):
        make_objective("soft_target", **options)  # which has all of them: a wrong one is refused whatever the loss
    objective = loss if isinstance(loss, Objective) else make_objective(loss, **options)
    rule = MixRule(mixup_alpha, cutmix_alpha, cutmix_share)
    check_number("mixup_alpha", mixup_alpha)
    check_number("cutmix_alpha", cutmix_alpha)
    check_number("cutmix_share", cutmix_share, most=1)
    check_number("stochastic_depth", stochastic_depth, below=1)
    if batch_norm not in BATCH_NORM_MODES:
        raise UserError(f"batch_norm {batch_norm!r} is unknown; use one of {', '.join(BATCH_NORM_MODES)}.")
    check_mesh(mesh)
    if not isinstance(remat, bool):
        raise UserError(f"remat is {remat!r}; give True or False.")
    whole_number("accumulate", accumulate, 1)
    if not augmentation.changes:
        augmentation = NO_AUGMENTATION  # one program, whatever the options of what is not done
    settings = StepSettings(
        batch_norm, mesh, traced.checked_dtype(dtype), remat, accumulate, augmentation, float(stochastic_depth)
    )
    return TrainStep(objective, rule, settings, mixes=rule.mixes or shares_program)


def check_mesh(mesh: object) -> None:
    """Raises a UserError where `mesh` is neither a mesh nor None."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise UserError(f"mesh is {mesh!r}; give one of bridgejax.mesh.make_mesh, or None.")
