"""Jitted training and evaluation steps.

One program serves every recipe of a shape: learning rate, schedule, weight decay, label smoothing, Mixup's α and the
soft-target weights are arguments, not constants.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from bridgejax.compilation import compiler_options
from bridgejax.errors import UserError, nearest
from bridgejax.mesh import data_sharding, replicate, replicated
from bridgejax.training import batches, losses, traced
from bridgejax.training.feed import PlacedBatch
from bridgejax.training.optimizers import Optimizer
from bridgejax.training.state import Structure, TrainState

BATCH_NORM_MODES = ("train", "frozen")


def mixup(
    images: jax.Array,
    one_hot: jax.Array,
    lam: jax.Array | float,
    permutation: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns λ·x + (1 - λ)·x[permutation] for images and targets alike (Zhang et al. 2018, arXiv 1710.09412).

    Args:
      images: float [n, ...].
      one_hot: float [n, classes].
      lam: λ in [0, 1], a scalar or [n].
      permutation: int [n], the partner of each row.
    """
    return _mix(images, lam, permutation), _mix(one_hot, lam, permutation)


def _mix(values: Any, lam: Any, permutation: Any) -> jax.Array:
    x, weight = jnp.asarray(values), jnp.asarray(lam, jnp.float32)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float32)
    if weight.ndim:
        weight = weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim))
    return weight.astype(x.dtype) * x + (1.0 - weight).astype(x.dtype) * x[jnp.asarray(permutation)]


@dataclasses.dataclass(frozen=True)
class Program:
    """What a training program is made for; all else is an argument."""

    loss: str
    mixes: bool
    batch_norm: str
    mesh: Mesh | None
    dtype: str = "float32"
    remat: bool = False


class TrainStep:
    """`state, metrics = step(state, batch)`; see `make_train_step`."""

    def __init__(self, program: Program, settings: dict[str, float]) -> None:
        self.program = program
        self.settings = {name: np.float32(value) for name, value in settings.items()}
        self._jitted, self._classes = _train_program(program)
        self.required = ("image", "label", "teacher_logits") if program.loss == "soft_target" else ("image", "label")
        self._seen: set[Any] = set()

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        if not isinstance(state, TrainState):
            raise UserError(f"the state is a {type(state).__name__}; make it with TrainState.create(model, optimizer).")
        _check_alive(state)
        ready = batch if isinstance(batch, PlacedBatch) else self.place(batch)
        parts, placed = ready.given, ready.parts
        on_host = not isinstance(parts["label"], jax.Array)
        if self.program.mesh is not None:
            state = _replicated(state, self.program.mesh)
        settings = self._settings_of(state, placed)
        shape = (state.structure, tuple(placed["image"].shape), placed["image"].dtype)
        if shape not in self._seen and shape not in self._classes:
            self._jitted.trace(state, placed, settings)  # tells the number of classes; the call below reuses it
        if on_host or (shape not in self._seen and parts["label"].is_fully_addressable):
            # Labels already on a device are looked at once: doing it every step would wait for each transfer. The
            # program itself turns the loss into NaN where a label is out of range.
            batches.check_labels(parts, self._classes[shape])
        self._seen.add(shape)
        return self._jitted(state, placed, settings)

    def place(self, batch: Any) -> PlacedBatch:
        """Checks a batch and begins its transfer to the device, so that a later call finds it there.

        Raises:
          UserError: as in the call, but for labels out of range, which the call tells.
        """
        parts = batches.checked_batch(batch, self.required)
        return PlacedBatch(batches.place(parts, self.program.mesh), parts)

    def _settings_of(self, state: TrainState, parts: dict[str, Any]) -> dict[str, Any]:
        """Returns the step's settings, with this step's Mixup where the program mixes."""
        if not self.program.mixes:
            return self.settings
        rows = parts["image"].shape[0]
        if self.settings["mixup_alpha"] > 0:
            draw = _draw_program(rows, self.program.mesh)
            lam, partners = draw(state.key, state.step, self.settings["mixup_alpha"], parts.get("mask"))
        else:
            lam, partners = _no_mixup(rows, self.program.mesh)
        return {**self.settings, "lam": lam, "partners": partners}


def make_train_step(
    loss: str = "cross_entropy",
    *,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    soft_weight: float = 0.5,
    temperature: float = 2.0,
    batch_norm: str = "train",
    mesh: Mesh | None = None,
    dtype: Any = None,
    remat: bool = False,
) -> TrainStep:
    """Returns `step(state, batch) -> (state, metrics)`: jitted, donating the state.

    The batch holds "image" (uint8 [n, h, w, 3], normalised on the device by `model.preprocessing`, or float taken as
    normalised), "label" (int [n]), if wanted "mask" (float [n]; rows of mask 0 count nothing, also not in batch
    statistics), and for "soft_target" "teacher_logits" (float [n, classes]). Other keys are ignored. With a mesh the batch
    is split over "data" and the state is replicated.

    The metrics are float32 scalars on the device: "loss" (nats, masked mean, before the update), "accuracy" (of `label`,
    on the images as the network saw them), "gradient_norm", and "learning_rate" where the optimiser tells it.

    Args:
      loss: "cross_entropy", or "soft_target" = (1 - w)·CE(label) + w·CE(softmax(teacher / T)) (He et al. 2023).
      label_smoothing: in [0, 1], as in `torch.nn.CrossEntropyLoss`; for the hard targets.
      mixup_alpha: α ≥ 0; λ ~ Beta(α, α), one per batch, and the partners come from the state's key folded with the step.
      soft_weight: w in [0, 1].
      temperature: T > 0, of the teacher alone.
      batch_norm: "train" (batch statistics, running ones updated) or "frozen" (running statistics used and kept);
        dropout is on in both.
      mesh: the device mesh, or None.
      dtype: "float32" (None) or "bfloat16": what the network computes in, forward and backward. Parameters, their gradients,
        the optimiser's state, batch norms and the loss are float32 either way.
      remat: keep for the backward pass only the input of each of the network's `blocks`, and compute the rest again there:
        the same numbers for less memory and up to a third more arithmetic.

    Raises:
      UserError: an unknown name or a value out of range; in the call, a batch without what the loss needs, labels
        outside [0, classes), uint8 images without `preprocessing`, or `remat` of a network without `blocks`.
    """
    if loss not in losses.LOSSES:
        raise UserError(f"loss {loss!r} is unknown; use one of {', '.join(losses.LOSSES)}{nearest(str(loss), losses.LOSSES)}.")
    if batch_norm not in BATCH_NORM_MODES:
        raise UserError(f"batch_norm {batch_norm!r} is unknown; use one of {', '.join(BATCH_NORM_MODES)}.")
    settings = {
        "label_smoothing": label_smoothing,
        "mixup_alpha": mixup_alpha,
        "soft_weight": soft_weight,
        "temperature": temperature,
    }
    for key, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise UserError(f"{key} is {value!r}; give a number.")
    for key, value in (("label_smoothing", label_smoothing), ("soft_weight", soft_weight)):
        if not 0 <= value <= 1:
            raise UserError(f"{key} is {value!r}; give a number from 0 to 1.")
    if not 0 <= mixup_alpha < math.inf or not 0 < temperature < math.inf:
        raise UserError(f"mixup_alpha ({mixup_alpha!r}) must be at least 0 and temperature ({temperature!r}) above 0.")
    _check_mesh(mesh)
    if not isinstance(remat, bool):
        raise UserError(f"remat is {remat!r}; give True or False.")
    return TrainStep(Program(loss, mixup_alpha > 0, batch_norm, mesh, traced.checked_dtype(dtype), remat), settings)


def _check_mesh(mesh: Any) -> None:
    if mesh is not None and not isinstance(mesh, Mesh):
        raise UserError(f"mesh is {mesh!r}; give one of bridgejax.mesh.make_mesh, or None.")


def _check_alive(state: TrainState) -> None:
    """Raises a UserError where a step was already called with the state."""
    if isinstance(state.step, jax.Array) and not isinstance(state.step, jax.core.Tracer) and state.step.is_deleted():
        raise UserError("the state was given to an earlier step, which took its memory; go on with the state that it returned.")


def shared_train_step(
    loss: str,
    *,
    label_smoothing: float,
    mixup_alpha: float,
    soft_weight: float,
    temperature: float,
    batch_norm: str,
    mesh: Mesh | None,
    dtype: Any = None,
    remat: bool = False,
) -> TrainStep:
    """Returns `make_train_step`'s step from the program that can also mix: stages with and without Mixup share it.

    Without Mixup λ is 1, which leaves images and targets as they are, bit for bit.
    """
    step = make_train_step(
        loss,
        label_smoothing=label_smoothing,
        mixup_alpha=mixup_alpha,
        soft_weight=soft_weight,
        temperature=temperature,
        batch_norm=batch_norm,
        mesh=mesh,
        dtype=dtype,
        remat=remat,
    )
    return TrainStep(dataclasses.replace(step.program, mixes=True), {k: float(v) for k, v in step.settings.items()})


@functools.cache
def step_function(program: Program) -> tuple[Any, dict[Any, int]]:
    """Returns the pure step of a program, (state, batch, settings) → (state, metrics), and where its traces note their classes.

    The settings of a program that mixes hold "lam" and "partners" of the step; see `draw_function`.
    """
    classes: dict[Any, int] = {}

    def step(state: TrainState, batch: dict[str, Any], settings: dict[str, Any]) -> tuple[TrainState, dict[str, Any]]:
        label, mask = batch["label"], batch.get("mask")
        drawn = (settings["lam"], settings["partners"]) if program.mixes else None

        def mixed(values: jax.Array) -> jax.Array:
            return values if drawn is None else _mix(values, *drawn)

        def objective(params: dict[str, Any]) -> tuple[jax.Array, tuple[jax.Array, dict[str, Any]]]:
            model = state.structure.merge({**params, **state.other})
            images = batches.normalise(batch["image"], model)
            traced.set_mode(model, program.batch_norm)
            traced.compute_in(model, program.dtype)
            if program.remat:
                traced.recompute_blocks(model)
            if mask is not None:
                # A padding row may hold anything; as zeros it cannot reach the gradient, not even as 0 times NaN.
                images = jnp.where(mask.reshape(mask.shape + (1,) * (images.ndim - 1)) > 0, images, 0)
            seen = _lowered(mixed(images), program.dtype)
            logits = _logits(traced.call_masked(model, seen, mask), label.shape[0]).astype(jnp.float32)
            classes[(state.structure, tuple(batch["image"].shape), batch["image"].dtype)] = logits.shape[-1]
            targets = mixed(jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32))
            targets = losses.smooth(targets, settings["label_smoothing"])
            if program.loss == "soft_target":
                told = batch["teacher_logits"]
                told = told if mask is None else jnp.where(mask[:, None] > 0, told, 0)  # as with the images
                teacher = _teacher(told, logits.shape[-1], settings["temperature"])
                each = losses.soft_target(logits, targets, mixed(teacher), settings["soft_weight"])
            else:
                each = losses.cross_entropy(logits, targets)
            wrong = (label < 0) | (label >= logits.shape[-1])
            each = jnp.where(wrong, jnp.nan, each)
            return losses.masked_mean(each, mask), (logits, traced.other_arrays(state.structure, model, state.other))

        (loss, (logits, other)), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        changes, opt_state = state.optimizer.update(gradients, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "accuracy": losses.masked_mean((logits.argmax(-1) == label).astype(jnp.float32), mask),
            "gradient_norm": optax.global_norm(gradients),
        }
        if isinstance(state.optimizer, Optimizer):
            metrics["learning_rate"] = state.optimizer.learning_rate(state.opt_state)
        after_step = dataclasses.replace(
            state,
            params=optax.apply_updates(state.params, changes),
            other=other,
            opt_state=opt_state,
            step=state.step + 1,
        )
        return after_step, metrics

    return step, classes


def jit_options(program: Program) -> dict[str, str]:
    """Returns the compiler options of a training program."""
    options = compiler_options(reduces=True)
    if not program.remat or jax.default_backend() != "cpu":
        return options
    # XLA's CPU compiler takes the barriers out that keep what is computed again apart from what was computed first, and then
    # merges the two; left in, the memory falls as it does on accelerators.
    return {**options, "xla_disable_hlo_passes": "cse_barrier_expander"}


@functools.cache
def _train_program(program: Program) -> tuple[Any, dict[Any, int]]:
    step, classes = step_function(program)
    if program.mesh is None:
        return jax.jit(step, donate_argnums=0, compiler_options=jit_options(program)), classes
    whole, split = replicated(program.mesh), data_sharding(program.mesh)
    shardings: dict[str, Any] = {"in_shardings": (whole, split, whole), "out_shardings": (whole, whole)}
    jitted = jax.jit(step, donate_argnums=0, compiler_options=jit_options(program), **shardings)
    return jitted, classes


class EvalStep:
    """`metrics = step(state_or_model, batch)`; see `make_eval_step`."""

    def __init__(self, mesh: Mesh | None, dtype: str) -> None:
        self._mesh = mesh
        self._jitted = _eval_program(mesh, dtype)

    def __call__(self, state: TrainState | nnx.Module, batch: Any) -> dict[str, jax.Array]:
        parts = batches.checked_batch(batch, ("image",))
        parts.pop("teacher_logits", None)
        if isinstance(state, TrainState):
            _check_alive(state)
            structure, arrays = state.structure, {**state.params, **state.other}
        elif not isinstance(state, nnx.Module):
            raise UserError(f"the state is a {type(state).__name__}; give a TrainState or a model.")
        else:
            structure, arrays, _, _ = Structure.of(state)
        placed = batches.place(parts, self._mesh)
        if self._mesh is not None:
            arrays = _replicated(arrays, self._mesh)
        metrics = self._jitted(structure, arrays, placed)
        if "label" in parts and not isinstance(parts["label"], jax.Array):
            batches.check_labels(parts, metrics["logits"].shape[-1])
        return metrics


def make_eval_step(mesh: Mesh | None = None, dtype: Any = None) -> EvalStep:
    """Returns `step(state, batch) -> metrics`: jitted, in evaluation mode (running statistics, no dropout).

    `state` is a `TrainState`, which is kept, or a model. The batch is that of `make_train_step`; "label" may be missing.

    The metrics: "logits" (float32 [n, classes], padding rows included), and with labels "loss" (nats) and "accuracy"
    (masked means), "correct" (float32 [n], 0 on padding) and "count" (the sum of the mask).

    Args:
      mesh: the device mesh, or None.
      dtype: what the network computes in, as in `make_train_step`.

    Raises:
      UserError: as in `make_train_step`.
    """
    _check_mesh(mesh)
    return EvalStep(mesh, traced.checked_dtype(dtype))


@functools.cache
def _eval_program(mesh: Mesh | None, dtype: str) -> Any:
    def step(structure: Structure, arrays: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        model = structure.merge(arrays)
        images = batches.normalise(batch["image"], model)
        model.eval()
        traced.compute_in(model, dtype)
        logits = _logits(model(_lowered(images, dtype)), images.shape[0]).astype(jnp.float32)
        metrics = {"logits": logits}
        if "label" in batch:
            label, mask = batch["label"], batch.get("mask")
            targets = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
            correct = (logits.argmax(-1) == label).astype(jnp.float32)
            metrics["loss"] = losses.masked_mean(losses.cross_entropy(logits, targets), mask)
            metrics["accuracy"] = losses.masked_mean(correct, mask)
            metrics["correct"] = correct if mask is None else correct * (mask > 0)
            metrics["count"] = jnp.float32(label.shape[0]) if mask is None else jnp.sum(mask.astype(jnp.float32))
        return metrics

    if mesh is None:
        return jax.jit(step, static_argnums=0, compiler_options=compiler_options(reduces=True))
    whole, split = replicated(mesh), data_sharding(mesh)
    shardings: dict[str, Any] = {"in_shardings": (whole, split), "out_shardings": whole}
    return jax.jit(step, static_argnums=0, compiler_options=compiler_options(reduces=True), **shardings)


@functools.cache
def draw_function(rows: int) -> Any:
    """Returns (key, step, α, mask) → (λ, partners): a step's Mixup for a batch of so many rows."""

    def draw(key: jax.Array, step: jax.Array, alpha: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        return _draw_mixup(jax.random.fold_in(key, step), alpha, rows, mask)

    return draw


@functools.cache
def _draw_program(rows: int, mesh: Mesh | None) -> Any:
    """Returns the jitted draw of a step's Mixup: its own program, since sampling Beta takes longer to compile than to run."""

    draw = draw_function(rows)
    return jax.jit(draw) if mesh is None else jax.jit(draw, out_shardings=replicated(mesh))


@functools.cache
def _no_mixup(rows: int, mesh: Mesh | None) -> tuple[jax.Array, jax.Array]:
    """Returns the draw that mixes nothing, placed as `_draw_program` places its own: other placements compile anew."""
    drawn = (jnp.ones((), jnp.float32), jnp.arange(rows, dtype=jnp.int32))
    return drawn if mesh is None else replicate(drawn, mesh)


def _draw_mixup(key: jax.Array, alpha: jax.Array, rows: int, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Returns λ ~ Beta(α, α), α > 0, and partners (int32 [rows]) that never pair a row that counts with padding."""
    for_lam, for_partners = jax.random.split(key)
    lam = jax.random.beta(for_lam, alpha, alpha).astype(jnp.float32)
    padding = jnp.zeros(rows, bool) if mask is None else mask <= 0
    order = jnp.argsort(padding, stable=True)
    shuffled = jnp.argsort(jnp.where(padding, 2.0, jax.random.uniform(for_partners, (rows,))), stable=True)
    return lam, jnp.zeros(rows, jnp.int32).at[order].set(shuffled.astype(jnp.int32))


def _lowered(images: jax.Array, dtype: str) -> jax.Array:
    """Returns images in the dtype that the network computes in; in float32 they may come in any."""
    return images if dtype == "float32" else images.astype(dtype)


def _logits(value: Any, rows: int) -> jax.Array:
    if getattr(value, "ndim", None) != 2 or value.shape[0] != rows:
        shown = list(value.shape) if hasattr(value, "shape") else type(value).__name__
        raise UserError(f"the model returned {shown} for {rows} images; its call must give logits [n, classes].")
    return value


def _teacher(logits: jax.Array, classes: int, temperature: jax.Array) -> jax.Array:
    if logits.shape[-1] != classes:
        raise UserError(
            f"batch['teacher_logits'] has {logits.shape[-1]} classes, but the model has {classes}; make them agree."
        )
    return jax.nn.softmax(logits.astype(jnp.float32) / temperature)


def _replicated(tree: Any, mesh: Mesh) -> Any:
    """Returns the tree with a whole copy of each array on each device; as it is when that is already so."""
    whole = replicated(mesh)
    if all(x.sharding == whole for x in jax.tree.leaves(tree)):
        return tree
    return replicate(tree, mesh)
