"""Cross-entropy with the labels."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from bridgejax.training.objectives.base import Mix, NamedArrays, Objective, ObjectiveState
from bridgejax.training.option_checks import check_number


@dataclasses.dataclass(frozen=True)
class CrossEntropy(Objective):
    """-Σ target · log softmax(logits), in nats, with one-hot targets of the labels.

    Attributes:
      label_smoothing: ε in [0, 1], as in `torch.nn.CrossEntropyLoss`.
    """

    label_smoothing: float = 0.0

    def check(self) -> None:
        check_number("label_smoothing", self.label_smoothing, most=1)

    def losses(self, outputs: jax.Array, batch: NamedArrays, mix: Mix, state: ObjectiveState) -> jax.Array:
        """A row whose label is out of range has the loss NaN."""
        label, classes = batch["label"], outputs.shape[-1]
        targets = smooth(mix(jax.nn.one_hot(label, classes, dtype=jnp.float32)), self.label_smoothing)
        each = self.against(outputs, targets, batch, mix)
        return jnp.where((label < 0) | (label >= classes), jnp.nan, each)

    def against(self, logits: jax.Array, targets: jax.Array, batch: NamedArrays, mix: Mix) -> jax.Array:
        """Returns each row's loss, float32 [n], against targets, float32 [n, classes], that are mixed and smoothed."""
        return cross_entropy(logits, targets)


def smooth(targets: jax.Array, label_smoothing: jax.Array | float) -> jax.Array:
    """Returns (1 - ε)·targets + ε / classes, float [n, classes], as `torch.nn.CrossEntropyLoss(label_smoothing=ε)` does."""
    return targets * (1.0 - label_smoothing) + label_smoothing / targets.shape[-1]


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns -Σ targets · log softmax(logits), float32 [n] in nats, of float [n, classes] each; rows of targets sum to 1."""
    return optax.losses.softmax_cross_entropy(logits.astype(jnp.float32), targets.astype(jnp.float32))
