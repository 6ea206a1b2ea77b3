"""The interface of an objective."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.classifier import Classifier

# A pytree of arrays that an objective carries from step to step in `TrainState.objective_state`; () if it needs none.
ObjectiveState: TypeAlias = Any
NamedArrays: TypeAlias = Mapping[str, jax.Array]  # a batch by its keys, or parameters by dotted path
# Mixes the rows of an array as the step mixed those of the images; without Mixup it returns them as they are.
Mix: TypeAlias = Callable[[jax.Array], jax.Array]


class Objective(abc.ABC):
    """What a stage minimises, as a function of a model's outputs and a batch.

    A subclass is a frozen dataclass of its options, all of them numbers. It is a pytree with the options as its leaves: a step
    takes it as an argument, so one compiled program serves all values of the options but those of `static` fields.

    Attributes:
      required: the keys that a batch must hold; a step passes these and "mask" on.
    """

    required: ClassVar[tuple[str, ...]] = ("image", "label")

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_pytree_node(cls, _leaves, lambda sizes, leaves: _from_leaves(cls, sizes, leaves))

    def __post_init__(self) -> None:
        self.check()
        for name, value in _options(self).items():
            object.__setattr__(self, name, np.float32(value))

    def check(self) -> None:  # noqa: B027 - an objective may have no options
        """Checks the options.

        Raises:
          UserError: one is out of range.
        """

    def init(self, params: NamedArrays) -> ObjectiveState:
        """Returns the state at the start of a stage (a queue, a moving average); `params` are the trained parameters."""
        return ()

    def companion(self, state: ObjectiveState) -> NamedArrays | None:
        """Returns parameters, by dotted path, of a second network that comes to `outputs` beside the trained one, or None."""
        return None

    def outputs(
        self, model: nnx.Module, images: jax.Array, batch: NamedArrays, state: ObjectiveState, companion: nnx.Module | None
    ) -> jax.Array:
        """Returns what the loss takes of a model: logits, float32 [n, classes].

        Args:
          model: in training mode.
          images: float [n, h, w, 3], normalised, and mixed if the step mixes.
          batch, state: as of `losses`.
          companion: the model with the parameters of `companion`, if there are any; what a call changes in it is lost.

        Raises:
          UserError: the model returns something else.
        """
        return logits_of(model, images)

    @abc.abstractmethod
    def losses(self, outputs: jax.Array, batch: NamedArrays, mix: Mix, state: ObjectiveState) -> jax.Array:
        """Returns each row's loss, float32 [n]; the step takes their mean, weighted by the mask.

        Args:
          outputs: of `outputs`.
          batch: what `required` names, and perhaps "mask" (float [n]); rows of mask 0 may hold anything.
          mix: what mixes targets as the images were mixed.
          state: of `init`, or of the `update` of the step before; no gradient should flow into it.
        """

    def metrics(self, outputs: jax.Array, batch: NamedArrays, state: ObjectiveState) -> dict[str, jax.Array]:
        """Returns float32 scalars to report beside the loss; here "accuracy", the masked mean."""
        correct = (outputs.argmax(-1) == batch["label"]).astype(jnp.float32)
        return {"accuracy": masked_mean(correct, batch.get("mask"))}

    def update(self, state: ObjectiveState, outputs: jax.Array, batch: NamedArrays, params: NamedArrays) -> ObjectiveState:
        """Returns the state after a step, laid out as before; `params` are those after the optimiser's update."""
        return state


def static(default: int) -> int:
    """Returns a field for an option, a whole number, for which the step's program is compiled: the size of an array."""
    return dataclasses.field(default=default, metadata={"static": True})


def logits_of(model: nnx.Module, images: jax.Array) -> jax.Array:
    """Returns a model's logits, float32 [n, classes], of images, or of a `Classifier`'s features [n, d], which its head takes.

    Raises:
      UserError: the model returns something else.
    """
    called = model.head if isinstance(model, Classifier) and images.ndim == 2 else model
    call: Callable[[jax.Array], object] = called
    value, rows = call(images), images.shape[0]
    if not isinstance(value, jax.Array) or value.ndim != 2 or value.shape[0] != rows:
        shown = list(getattr(value, "shape", ())) or type(value).__name__
        raise UserError(f"the model returned {shown} for {rows} images; its call must give logits [n, classes].")
    return value.astype(jnp.float32)


def masked_mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns the mean of `values` [n] over the rows whose `mask` [n] is not 0 (each weighs as its mask says).

    An all-zero mask gives 0. Values of rows left out do not enter, not even as NaN.
    """
    if mask is None:
        return jnp.mean(values)
    weights = mask.astype(jnp.float32)
    counted = jnp.where(weights > 0, values, 0.0)
    total = jnp.sum(weights)
    return jnp.sum(counted * weights) / jnp.where(total > 0, total, 1.0)


def _options(objective: Objective, sizes: bool = False) -> dict[str, jax.Array]:
    fields = dataclasses.fields(objective)  # type: ignore[arg-type]
    return {field.name: getattr(objective, field.name) for field in fields if bool(field.metadata.get("static")) == sizes}


def _leaves(objective: Objective) -> tuple[tuple[jax.Array, ...], tuple[tuple[str, object], ...]]:
    return tuple(_options(objective).values()), tuple(_options(objective, sizes=True).items())


def _from_leaves(kind: type[Objective], sizes: tuple[tuple[str, object], ...], leaves: tuple[jax.Array, ...]) -> Objective:
    made = object.__new__(kind)  # the leaves may be tracers, which no check can read
    known = dict(sizes)
    others = [field.name for field in dataclasses.fields(kind) if field.name not in known]  # type: ignore[arg-type]
    for name, value in (*sizes, *zip(others, leaves, strict=True)):
        object.__setattr__(made, name, value)
    return made
