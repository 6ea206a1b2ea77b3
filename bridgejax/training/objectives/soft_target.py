"""Cross-entropy with the labels and with a teacher's probabilities."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from bridgejax.errors import UserError
from bridgejax.training.objectives.base import Mix, NamedArrays
from bridgejax.training.objectives.cross_entropy import CrossEntropy, cross_entropy
from bridgejax.training.option_checks import check_number


@dataclasses.dataclass(frozen=True)
class SoftTarget(CrossEntropy):
    """(1 - w)·CE(label) + w·CE(softmax(teacher / T)), in nats; see `soft_target`.

    Batches hold "teacher_logits", float [n, classes]. In a run they come from the stage's teacher.

    Attributes:
      soft_weight: w in [0, 1].
      temperature: T > 0, of the teacher alone.
    """

    required = ("image", "label", "teacher_logits")
    soft_weight: float = 0.5
    temperature: float = 2.0

    def check(self) -> None:
        super().check()
        check_number("soft_weight", self.soft_weight, most=1)
        check_number("temperature", self.temperature, above_zero=True)

    def against(self, logits: jax.Array, targets: jax.Array, batch: NamedArrays, mix: Mix) -> jax.Array:
        teacher, classes, mask = batch["teacher_logits"], logits.shape[-1], batch.get("mask")
        if teacher.shape[-1] != classes:
            raise UserError(
                f"batch['teacher_logits'] has {teacher.shape[-1]} classes, but the model has {classes}; make them agree."
            )
        if mask is not None:  # a padding row may hold anything; as zeros it cannot reach the gradient
            teacher = jnp.where(mask[:, None] > 0, teacher, 0)
        probabilities = jax.nn.softmax(teacher.astype(jnp.float32) / self.temperature)
        return soft_target(logits, targets, mix(probabilities), self.soft_weight)


def soft_target(
    logits: jax.Array, targets: jax.Array, teacher_probabilities: jax.Array, soft_weight: jax.Array | float
) -> jax.Array:
    """Returns (1 - w)·CE(targets, logits) + w·CE(teacher, logits), float32 [n] in nats.

    The teacher's probabilities are tempered, the student's are not, and there is no T² factor: the soft-target cross
    entropy of He et al. 2023 (arXiv 2210.07574), as their code computes it.

    Args:
      logits: float [n, classes], the student's.
      targets: float [n, classes], rows that sum to 1.
      teacher_probabilities: float [n, classes], softmax(teacher logits / T).
      soft_weight: w in [0, 1].
    """
    soft = cross_entropy(logits, jax.lax.stop_gradient(teacher_probabilities))
    return (1.0 - soft_weight) * cross_entropy(logits, targets) + soft_weight * soft
