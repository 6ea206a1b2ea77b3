"""The jitted training step.

One program serves every recipe of a shape: learning rate, schedule, weight decay, the objective's options and Mixup's draw are
arguments, not constants.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bridgejax.compilation import compiler_options
from bridgejax.errors import UserError
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.mesh import context_of, data_sharding, replicated
from bridgejax.training import batches, mixing, traced
from bridgejax.training.feed import PlacedBatch
from bridgejax.training.mixing import MixupDraw, mixed
from bridgejax.training.objectives import Objective, make_objective, masked_mean
from bridgejax.training.optimizers import Optimizer
from bridgejax.training.option_checks import check_number
from bridgejax.training.state import TrainState, on_every_device

BATCH_NORM_MODES = ("train", "frozen")

Metrics = dict[str, jax.Array]
StepArguments = tuple[TrainState, dict[str, jax.Array], Objective, MixupDraw | None]
StepFunction = Callable[[TrainState, dict[str, jax.Array], Objective, MixupDraw | None], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What a step's program is compiled for; all else is an argument. The fields are those of `make_train_step`."""

    batch_norm: str = "train"
    mesh: Mesh | None = None
    dtype: str = "float32"
    remat: bool = False


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    objective: Objective,
    mixup: MixupDraw | None,
    *,
    settings: StepSettings,
    widths: dict[Hashable, int],
) -> tuple[TrainState, Metrics]:
    """Takes one optimiser step. This is what is compiled; `TrainStep` checks and places what goes in.

    Args:
      state: the state before the step.
      batch: what the objective requires, on the device, and perhaps "mask".
      objective: what is minimised.
      mixup: this step's draw; None mixes nothing.
      settings: what the program is compiled for.
      widths: where each trace notes the width of the objective's outputs (the number of classes) by `shape_key`.

    Returns:
      The state after the step, and float32 scalars.
    """
    mask = batch.get("mask")
    mix = functools.partial(mixed, draw=mixup)

    def loss_of(params: dict[str, jax.Array]) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
        model = state.structure.merge({**params, **state.other})
        images = mix(without_padding(batches.normalise(batch["image"], model), mask))
        second = objective.companion(state.objective_state)
        companion = None if second is None else state.structure.merge({**params, **state.other, **second})
        with contextlib.ExitStack() as modes:
            for each in (model,) if companion is None else (model, companion):
                modes.enter_context(
                    traced.training_mode(
                        each, batch_norm=settings.batch_norm, dtype=settings.dtype, remat=settings.remat, mask=mask
                    )
                )
            shown = traced.lowered(images, settings.dtype)
            outputs = objective.outputs(model, shown, batch, state.objective_state, companion)
        losses = objective.losses(outputs, batch, mix, state.objective_state)
        return masked_mean(losses, mask), (outputs, traced.other_arrays(state.structure, model, state.other))

    (loss, (outputs, other)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    # What optax's transformations with extra arguments may ask for: Polyak's step, a plateau's schedule, line searches.
    extra = {"value": loss, "grad": gradients, "value_fn": lambda params: loss_of(params)[0]}
    update = optax.with_extra_args_support(state.optimizer).update
    updates, opt_state = update(gradients, state.opt_state, state.params, **extra)
    params = optax.apply_updates(state.params, updates)

    metrics = {
        "loss": loss,
        **objective.metrics(outputs, batch, state.objective_state),
        "gradient_norm": optax.tree.norm(gradients),
    }
    if isinstance(state.optimizer, Optimizer):
        metrics["learning_rate"] = state.optimizer.learning_rate(state.opt_state)
    widths[shape_key(state, batch)] = outputs.shape[-1]
    after = dataclasses.replace(
        state,
        params=params,
        other=other,
        opt_state=opt_state,
        objective_state=objective.update(state.objective_state, outputs, batch, params),
        step=state.step + 1,
    )
    return after, metrics


def without_padding(images: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns the images with zeros in rows of mask 0, which may hold anything: not even 0 times NaN may reach a gradient."""
    return images if mask is None else jnp.where(mask.reshape(mask.shape + (1,) * (images.ndim - 1)) > 0, images, 0)


def shape_key(state: TrainState, batch: dict[str, jax.Array], axis: int = 0) -> Hashable:
    """Returns what a model and a batch have in common with others that one trace serves; `axis` is that of the rows."""
    return state.structure, batch["image"].shape[axis:], batch["image"].dtype


class StepProgram:
    """`train_step` for one `StepSettings`.

    Attributes:
      function: pure, (state, batch, objective, mixup) → (state, metrics).
      jitted: the same, compiled for the settings' mesh; it donates the state.
      widths: the number of classes by `shape_key`, once traced.
    """

    def __init__(self, settings: StepSettings) -> None:
        self.widths: dict[Hashable, int] = {}

        def step(
            state: TrainState, batch: dict[str, jax.Array], objective: Objective, mixup: MixupDraw | None
        ) -> tuple[TrainState, Metrics]:
            return train_step(state, batch, objective, mixup, settings=settings, widths=self.widths)

        self.function: StepFunction = step
        jit = functools.partial(jax.jit, donate_argnums=0, compiler_options=step_compiler_options(settings.remat))
        if settings.mesh is None:
            self.jitted = jit(step)
        else:
            everywhere, split = replicated(settings.mesh), data_sharding(settings.mesh)
            self.jitted = jit(step, in_shardings=(everywhere, split, everywhere, everywhere), out_shardings=everywhere)


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
      mixup_alpha: Mixup's α.
      mixes: whether the program mixes. With α = 0 its λ is 1, which leaves images and targets as they are, bit for bit.
      settings: what the program is compiled for.
    """

    def __init__(self, objective: Objective, mixup_alpha: float, settings: StepSettings, *, mixes: bool) -> None:
        self.objective, self.mixup_alpha, self.settings, self.mixes = objective, np.float32(mixup_alpha), settings, mixes
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
            after: tuple[TrainState, Metrics] = self.program.jitted(*arguments)
        return after

    @under_jax_defaults
    def place(self, batch: object) -> PlacedBatch:
        """Checks a batch and begins its transfer to the device, so that a later call finds it there.

        Raises:
          UserError: as in the call, but for labels out of range, which the call reports.
        """
        parts = batches.checked_batch(batch, self.objective.required)
        return PlacedBatch(batches.place(parts, self.settings.mesh), parts)

    @under_jax_defaults
    def lower(self, state: TrainState, batch: object) -> jax.stages.Lowered:
        """Returns the step lowered for a state and a batch, to be looked into; the state stays usable."""
        lowered: jax.stages.Lowered = self.program.jitted.lower(*self._arguments(state, self.place(batch)))
        return lowered

    def _arguments(self, state: TrainState, ready: PlacedBatch) -> StepArguments:
        mesh = self.settings.mesh
        if mesh is not None:
            state = on_every_device(state, mesh)
        return state, ready.parts, self.objective, self._draw(state, ready.parts)

    def _draw(self, state: TrainState, parts: dict[str, jax.Array]) -> MixupDraw | None:
        if not self.mixes:
            return None
        rows, mesh = parts["image"].shape[0], self.settings.mesh
        if self.mixup_alpha > 0:
            return mixing.draw_program(rows, mesh)(state.key, state.step, self.mixup_alpha, parts.get("mask"))
        return mixing.no_mixup(rows, mesh)

    def _check_labels(self, ready: PlacedBatch, arguments: StepArguments) -> None:
        """Checks labels on the host at every step, and those already on a device once: later it would wait for each transfer.

        The program itself turns the loss into NaN where a label is out of range.
        """
        if "label" not in ready.given:
            return
        label, key = ready.given["label"], shape_key(arguments[0], ready.parts)
        is_new = key not in self._seen
        if is_new and key not in self.program.widths:
            self.program.jitted.trace(*arguments)  # the call reuses it
        if not isinstance(label, jax.Array) or (is_new and label.is_fully_addressable):
            batches.check_labels(ready.given, self.program.widths[key])
        self._seen.add(key)


def make_train_step(
    loss: str | Objective = "cross_entropy",
    *,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    soft_weight: float = 0.5,
    temperature: float = 2.0,
    batch_norm: str = "train",
    mesh: Mesh | None = None,
    dtype: object = None,
    remat: bool = False,
    shares_program: bool = False,
) -> TrainStep:
    """Returns `step(state, batch) -> (state, metrics)`: jitted, donating the state.

    The batch holds "image" (uint8 [n, h, w, 3], normalised on the device by `model.preprocessing`, or float taken as
    normalised), "label" (int [n]), if wanted "mask" (float [n]; rows of mask 0 count nothing, also not in batch
    statistics), and for "soft_target" "teacher_logits" (float [n, classes]). Other keys are ignored. With a mesh the batch
    is split over "data" and the state is replicated.

    The metrics are float32 scalars on the device: "loss" (nats, masked mean, before the update), "accuracy" (of `label`,
    on the images as the network saw them), "gradient_norm", and "learning_rate" where the optimiser reports it.

    Args:
      loss: "cross_entropy", "soft_target" = (1 - w)·CE(label) + w·CE(softmax(teacher / T)) (He et al. 2023), or an
        `Objective`, which has its options itself.
      label_smoothing: in [0, 1], as in `torch.nn.CrossEntropyLoss`; for the hard targets.
      mixup_alpha: α ≥ 0; λ ~ Beta(α, α), one per batch, and the partners come from the state's key folded with the step.
      soft_weight: w in [0, 1].
      temperature: T > 0, of the teacher alone.
      batch_norm: "train" (batch statistics, running ones updated) or "frozen" (running statistics used and left as they are);
        dropout is on in both.
      mesh: the device mesh, or None.
      dtype: "float32" (None) or "bfloat16": what the network computes in, forward and backward. Parameters, their gradients,
        the optimiser's state, batch norms and the loss are float32 either way.
      remat: keep for the backward pass only the input of each of the network's `blocks`, and compute the rest again there:
        the same numbers for less memory and up to a third more arithmetic.
      shares_program: use the program that can mix even where α is 0, so that steps with and without Mixup compile once.

    Raises:
      UserError: an unknown name or a value out of range; in the call, a batch without what the loss needs, labels
        outside [0, classes), uint8 images without `preprocessing`, or `remat` of a network without `blocks`.
    """
    options = {"label_smoothing": label_smoothing, "soft_weight": soft_weight, "temperature": temperature}
    if not isinstance(loss, Objective):
        make_objective("soft_target", **options)  # which has all of them: a wrong one is refused whatever the loss
    objective = loss if isinstance(loss, Objective) else make_objective(loss, **options)
    check_number("mixup_alpha", mixup_alpha)
    if batch_norm not in BATCH_NORM_MODES:
        raise UserError(f"batch_norm {batch_norm!r} is unknown; use one of {', '.join(BATCH_NORM_MODES)}.")
    check_mesh(mesh)
    if not isinstance(remat, bool):
        raise UserError(f"remat is {remat!r}; give True or False.")
    settings = StepSettings(batch_norm, mesh, traced.checked_dtype(dtype), remat)
    return TrainStep(objective, mixup_alpha, settings, mixes=mixup_alpha > 0 or shares_program)


def check_mesh(mesh: object) -> None:
    """Raises a UserError where `mesh` is neither a mesh nor None."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise UserError(f"mesh is {mesh!r}; give one of bridgejax.mesh.make_mesh, or None.")
