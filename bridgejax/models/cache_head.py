"""The head of Tip-Adapter (Zhang et al. 2022, arXiv 2207.09519): a linear head and a cache of the features of known images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.classifier import Classifier


class CacheLabels(nnx.Variable[jax.Array]):
    """Classes of the images in a cache, int32 [k]; no parameter, so never trained."""


class CacheHead(nnx.Module):
    """logits = linear(f) + α · exp(-β(1 - f·Kᵀ))·L, with the unit features K of k images as keys and their classes L, one-hot.

    Attributes:
      linear: the head that was there before.
      keys: float32 [k, d], unit rows at the start. Tip-Adapter-F trains them.
      labels: int32 [k].
      weight, sharpness: α and β.
    """

    def __init__(
        self,
        linear: nnx.Linear,
        features: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int32],
        *,
        weight: float,
        sharpness: float,
    ) -> None:
        """Makes the head of features, float32 [k, d], and classes, int [k]."""
        self.linear, self.weight, self.sharpness = linear, weight, sharpness
        self.keys = nnx.Param(_unit(jnp.asarray(features)))
        self.labels = CacheLabels(jnp.asarray(labels, jnp.int32))

    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps features [n, d] to logits [n, classes]."""
        logits = self.linear(features)
        near = jnp.exp(self.sharpness * (_unit(features) @ self.keys[...].T - 1.0))
        return logits + self.weight * (near @ jax.nn.one_hot(self.labels[...], logits.shape[-1], dtype=near.dtype))


def _unit(rows: jax.Array) -> jax.Array:
    return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)


def add_cache(
    model: Classifier, features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], *, weight: float, sharpness: float
) -> None:
    """Puts a `CacheHead` around a model's linear head, in place.

    Raises:
      UserError: the head is not one linear layer.
    """
    if not isinstance(model.head, nnx.Linear):
        raise UserError(f"a cache of features goes beside one linear head, but this model's is a {type(model.head).__name__}.")
    model.head = CacheHead(model.head, features, labels, weight=weight, sharpness=sharpness)
