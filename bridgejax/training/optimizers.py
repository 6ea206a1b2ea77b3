"""Optimisers as optax transformations whose hyper-parameters are arrays in their state.

Learning rate, schedule length and weight decay may thus change without a new compilation: optimisers that differ in
them alone are equal, and so are the programs made with them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bridgejax.errors import UserError, choices
from bridgejax.training.option_checks import check_number

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "cosine")


Scalar = jax.Array | np.float32
RateFunction = Callable[[jax.Array], jax.typing.ArrayLike]  # from the step (int32 scalar, from 0) to a rate


class LearningRateSchedule(NamedTuple):
    """A learning rate over steps, as float32 scalars: linear warm-up, then constant or half a cosine down to 0.

    Fields: `base` (the peak), `warmup` and `total` (steps), `offset` (steps that count as already done), `cosine` (1 or 0).
    """

    base: Scalar
    warmup: Scalar
    total: Scalar
    offset: Scalar
    cosine: Scalar

    @classmethod
    def make(cls, kind: str, base: float, *, total: int, warmup: int = 0, offset: int = 0) -> LearningRateSchedule:
        """Returns a schedule of kind "constant" or "cosine".

        Raises:
          UserError: an unknown kind, a negative or infinite number, or a warm-up that does not fit.
        """
        if kind not in SCHEDULES:
            raise UserError(f"schedule {kind!r} is unknown; {choices(kind, SCHEDULES)}")
        for key, value in (("learning_rate", base), ("warmup_steps", warmup), ("total", total), ("offset", offset)):
            check_number(key, value)
        if not 0 <= warmup <= total:
            raise UserError(f"warmup_steps is {warmup}, but the schedule has {total} steps; give 0 to {total}.")
        return cls(*(np.float32(x) for x in (base, warmup, total, offset, kind == "cosine")))

    def rate(self, count: jax.Array) -> jax.Array:
        """Returns the learning rate (float32 scalar) of step `count`, counted from 0."""
        done = count.astype(jnp.float32) + self.offset
        rising = (done + 1.0) / jnp.maximum(self.warmup, 1.0)
        share = jnp.clip((done - self.warmup) / jnp.maximum(self.total - self.warmup, 1.0), 0.0, 1.0)
        falling = jnp.where(self.cosine > 0, 0.5 * (1.0 + jnp.cos(math.pi * share)), 1.0)
        return self.base * jnp.where(done < self.warmup, rising, falling)


class OptimizerState(NamedTuple):
    """What an `Optimizer` remembers: steps done, its schedule and weight decay (arrays), and the moments."""

    done: jax.Array
    schedule: LearningRateSchedule
    weight_decay: jax.Array
    moments: optax.OptState


@dataclasses.dataclass(frozen=True)
class _Options:
    """What decides the program of an update; equal options share one compilation."""

    name: str
    momentum: float
    nesterov: bool
    betas: tuple[float, float]
    eps: float
    schedule: RateFunction | None
    clip_norm: float | None


class Optimizer(optax.GradientTransformation):  # type: ignore[misc]  # optax is untyped here
    """An optax `GradientTransformation`, equal to another whose static options are the same."""

    options: _Options

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Optimizer) and self.options == other.options

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.options)

    def learning_rate(self, state: OptimizerState) -> jax.Array:
        """Returns the rate (float32 scalar) that the next update will use."""
        if self.options.schedule is not None:
            return jnp.asarray(self.options.schedule(state.done), jnp.float32)
        return state.schedule.rate(state.done)


def _check_function(function: RateFunction) -> None:
    try:
        rate = jax.eval_shape(lambda step: jnp.asarray(function(step), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32))
    except (TypeError, ValueError, jax.errors.JAXTypeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"learning_rate is a function that cannot be traced from the step, an int32 array, to a number ({reason}); "
            "write it with jax.numpy, jnp.where in place of if."
        ) from error
    if rate.shape:
        raise UserError(f"learning_rate is a function that returns shape {list(rate.shape)}; it must return one number.")


def make_optimizer(
    name: str,
    learning_rate: float | LearningRateSchedule | RateFunction,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    clip_norm: float | None = None,
) -> Optimizer:
    """Returns an optimiser that updates as PyTorch's of the same name does.

    "sgd" (`torch.optim.SGD`, dampening 0): g ← g + weight_decay·p; v ← momentum·v + g; p ← p - rate·v, or with Nesterov
    p ← p - rate·(g + momentum·v). "adamw" (`torch.optim.AdamW`): p ← p·(1 - rate·weight_decay), then Adam's step.
    Decay applies to every trained parameter, as in PyTorch. With `clip_norm` (c), all gradients are first multiplied by
    min(1, c / (norm + 1e-6)), norm being that of all of them together (`torch.nn.utils.clip_grad_norm_`).

    Args:
      name: "sgd" or "adamw".
      learning_rate: a number ≥ 0, a `LearningRateSchedule`, or a function from the step (int32 scalar, from 0) to a rate.
      momentum: in [0, 1), SGD only.
      weight_decay: ≥ 0.
      nesterov: SGD only; needs momentum.
      betas: Adam's decay rates, each in [0, 1).
      eps: added to the root of Adam's second moment, > 0.
      clip_norm: the largest norm of the gradients, > 0; None is no bound.

    Raises:
      UserError: an unknown name, a value out of range, or a function that JAX cannot trace.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer {name!r} is unknown; {choices(name, OPTIMIZERS)}")
    check_number("weight_decay", weight_decay)
    try:
        first, second = betas
    except (TypeError, ValueError):
        raise UserError(f"betas is {betas!r}; give two numbers from 0 to below 1, as in (0.9, 0.999).") from None
    for key, value in (("momentum", momentum), ("betas[0]", first), ("betas[1]", second)):
        check_number(key, value, below=1)
    check_number("eps", eps, above_zero=True)
    if clip_norm is not None:
        check_number("clip_norm", clip_norm, above_zero=True)
    if nesterov and (name != "sgd" or momentum == 0):
        raise UserError("nesterov=True needs optimizer 'sgd' with a momentum above 0; set nesterov=False or give one.")
    function = None
    if isinstance(learning_rate, LearningRateSchedule):
        schedule = learning_rate
    elif callable(learning_rate):
        _check_function(learning_rate)
        function, schedule = learning_rate, LearningRateSchedule.make("constant", 0.0, total=0)
    else:
        schedule = LearningRateSchedule.make("constant", learning_rate, total=0)
    bound = None if clip_norm is None else float(clip_norm)
    options = _Options(name, float(momentum), bool(nesterov), (float(first), float(second)), float(eps), function, bound)
    if name == "sgd":
        inner = optax.trace(decay=momentum, nesterov=nesterov) if momentum else optax.identity()
    else:
        inner = optax.scale_by_adam(b1=first, b2=second, eps=eps)

    def init(params: optax.Params) -> OptimizerState:
        arrays = LearningRateSchedule(*(jnp.asarray(x, jnp.float32) for x in schedule))
        return OptimizerState(jnp.zeros((), jnp.int32), arrays, jnp.float32(weight_decay), inner.init(params))

    def update(
        grads: optax.Updates, state: OptimizerState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, OptimizerState]:
        if params is None:
            raise ValueError("this optimiser decays weights: pass the parameters to update()")
        rate = optimizer.learning_rate(state)

        def decay(change: jax.Array, param: jax.Array) -> jax.Array:
            return change + state.weight_decay.astype(param.dtype) * param

        if bound is not None:
            factor = jnp.minimum(1.0, bound / (optax.global_norm(grads) + 1e-6))
            grads = jax.tree.map(lambda grad: factor.astype(grad.dtype) * grad, grads)
        if name == "sgd":
            grads = jax.tree.map(decay, grads, params)
        changes, moments = inner.update(grads, state.moments, params)
        if name == "adamw":
            changes = jax.tree.map(decay, changes, params)
        changes = jax.tree.map(lambda x: -rate.astype(x.dtype) * x, changes)
        return changes, OptimizerState(state.done + 1, state.schedule, state.weight_decay, moments)

    optimizer = Optimizer(init, update)
    optimizer.options = options
    return optimizer
