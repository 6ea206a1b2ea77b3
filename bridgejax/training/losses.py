"""The losses, one number per example, so that a mask can leave padding out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

LOSSES = ("cross_entropy", "soft_target")


def smooth(targets: jax.Array, label_smoothing: jax.Array | float) -> jax.Array:
    """Returns (1 - ε)·targets + ε / classes, as `torch.nn.CrossEntropyLoss(label_smoothing=ε)` does.

    Args:
      targets: float [n, classes], rows that sum to 1.
      label_smoothing: ε in [0, 1].
    """
    return targets * (1.0 - label_smoothing) + label_smoothing / targets.shape[-1]


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns -Σ targets · log softmax(logits), in nats.

    Args:
      logits: float [n, classes].
      targets: float [n, classes], rows that sum to 1.

    Returns:
      float32 [n].
    """
    return optax.losses.softmax_cross_entropy(logits.astype(jnp.float32), targets.astype(jnp.float32))


def soft_target(
    logits: jax.Array,
    targets: jax.Array,
    teacher_probabilities: jax.Array,
    soft_weight: jax.Array | float,
) -> jax.Array:
    """Returns (1 - w)·CE(targets, logits) + w·CE(teacher, logits), in nats.

    The teacher's probabilities are tempered, the student's are not, and there is no T² factor: the soft-target cross
    entropy of He et al. 2023 (arXiv 2210.07574), as their code computes it.

    Args:
      logits: float [n, classes], the student's.
      targets: float [n, classes], rows that sum to 1.
      teacher_probabilities: float [n, classes], softmax(teacher logits / T).
      soft_weight: w in [0, 1].

    Returns:
      float32 [n].
    """
    soft = cross_entropy(logits, jax.lax.stop_gradient(teacher_probabilities))
    return (1.0 - soft_weight) * cross_entropy(logits, targets) + soft_weight * soft


def masked_mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns the mean of `values` [n] over the rows whose `mask` [n] is not 0 (each weighs as its mask says).

    An all-zero mask gives 0. Values of rows left out do not enter, not even as NaN.
    """
    if mask is None:
        return jnp.mean(values)
    weights = mask.astype(jnp.float32)
    kept = jnp.where(weights > 0, values, 0.0)
    total = jnp.sum(weights)
    return jnp.sum(kept * weights) / jnp.where(total > 0, total, 1.0)
