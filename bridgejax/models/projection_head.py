"""The head of contrastive pre-training: two layers in the place of the linear one (Chen et al. 2020, arXiv 2003.04297)."""

from __future__ import annotations

import jax
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.classifier import Classifier


class ProjectionHead(nnx.Module):
    """out(relu(hidden(f))), as wide within as the features are.

    Attributes:
      in_features: width of the features.
      width: of what it returns.
    """

    def __init__(self, in_features: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.in_features, self.width = in_features, width
        self.hidden = nnx.Linear(in_features, in_features, rngs=rngs)
        self.out = nnx.Linear(in_features, width, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps features [n, d] to [n, width]."""
        return self.out(jax.nn.relu(self.hidden(features)))


def add_projection(model: Classifier, width: int, key: jax.Array) -> None:
    """Puts a new `ProjectionHead` in the place of a model's linear head, in place.

    Raises:
      UserError: the head is not one linear layer.
    """
    if not isinstance(model.head, nnx.Linear):
        raise UserError(
            f"contrastive pre-training takes the place of one linear head, but this model's is a {type(model.head).__name__}."
        )
    model.head = ProjectionHead(model.feature_width, width, rngs=nnx.Rngs(key))


def drop_projection(model: nnx.Module) -> None:
    """Gives a model whose head is a `ProjectionHead` a linear one of its classes again, in place; another model stays."""
    if isinstance(model, Classifier) and isinstance(model.head, ProjectionHead):
        model.head = nnx.Linear(model.feature_width, model.num_classes, rngs=nnx.Rngs(0))
