"""Teachers of the soft-target objective: classifiers that a stage names."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bridgejax.data import Batch as StreamBatch
from bridgejax.errors import UserError
from bridgejax.identity import digest
from bridgejax.models import load_classifier
from bridgejax.models.label_names import name_head, order_of
from bridgejax.models.registry import classifier_digest
from bridgejax.recipes import Recipe
from bridgejax.training.batches import Array
from bridgejax.training.eval_step import make_eval_step
from bridgejax.training.feature_cache import encoder_digest
from bridgejax.training.state import TrainState

PRETRAINED = "pretrained"  # the name of the classifier from which a run starts


class ClassifierTeacher:
    """`teacher(batch)` → a classifier's logits, float32 [n, classes], of the batch's images as the student sees them.

    uint8 images are resized to the side for which the classifier was made; in their place may stand its features.

    Attributes:
      digest: of the weights' files; None if the classifier comes from elsewhere.
    """

    def __init__(self, model: nnx.Module, digest: str | None = None) -> None:
        self.digest = digest
        self._state = TrainState.create(model, optax.identity())
        self._size: int | None = getattr(getattr(model, "preprocessing", None), "size", None)
        self._step = make_eval_step()
        self._encoder: str | None = None

    def has_encoder(self, encoder: str, image_size: int) -> bool:
        """Returns whether the classifier's features are those of the encoder of this digest, on images of that side."""
        if self._encoder is None:
            self._encoder = encoder_digest(self._state.model)
        return self._encoder == encoder and self._size in (None, image_size)

    def __call__(self, batch: StreamBatch) -> Array:
        images = batch["image"]
        if self._size is not None and images.dtype == np.uint8 and images.shape[1:3] != (self._size, self._size):
            images = _resized(images, self._size)
        logits = self._step(self._state, {"image": images})["logits"]
        return logits if jax.process_count() == 1 else np.asarray(logits)  # each process gives its own rows


@functools.partial(jax.jit, static_argnums=1)
def _resized(images: Array, size: int) -> jax.Array:
    wide = jax.image.resize(images.astype(jnp.float32), (len(images), size, size, 3), "bilinear")
    return jnp.clip(jnp.round(wide), 0, 255).astype(jnp.uint8)


def teacher_names(recipe: Recipe) -> tuple[str, ...]:
    """Returns the teachers that a recipe's stages name, each once."""
    return tuple(dict.fromkeys(stage.teacher for stage in recipe.stages if stage.teacher is not None))


def load_teachers(
    recipe: Recipe, class_names: Sequence[str], pretrained: str, templates: tuple[str, ...] = ()
) -> dict[str, ClassifierTeacher]:
    """Returns the teachers that a recipe names, by name.

    Args:
      recipe: the recipe.
      class_names: the task's, in order.
      pretrained: the weights that the name "pretrained" stands for.
      templates: of a CLIP model's zero-shot head; () is the default one.

    Raises:
      UserError: as `load_teacher`.
    """
    weights = {name: pretrained if name == PRETRAINED else name for name in teacher_names(recipe)}
    return {name: load_teacher(folder, tuple(class_names), templates) for name, folder in weights.items()}


@functools.lru_cache(maxsize=2)
def load_teacher(weights: str, class_names: tuple[str, ...], templates: tuple[str, ...] = ()) -> ClassifierTeacher:
    """Returns the teacher of a classifier's weights; a CLIP model without a head is used zero-shot.

    Args:
      weights: a folder or name, as `load_classifier` takes it.
      class_names: the task's. Outputs that have names are put in their order; others are taken to be in it.
      templates: of a zero-shot head; () is the default one.

    Raises:
      UserError: the weights cannot be read, or the classifier has other classes, or another number of them.
    """
    model = load_classifier(weights)
    if not model.num_classes:  # a CLIP model without a head
        model = load_classifier(weights, class_names=class_names, templates=templates or None)
    if model.num_classes != len(class_names):
        raise UserError(
            f"the teacher {weights!r} has {model.num_classes} classes, but the task has {len(class_names)}; name a classifier "
            "that was trained on the task's classes, or a CLIP model."
        )
    if model.class_names and order_of(model.class_names, class_names) is None:
        theirs, ours = (", ".join(names[:3]) for names in (model.class_names, class_names))
        raise UserError(
            f"the teacher {weights!r} was trained on other classes ({theirs}, …) than the task's ({ours}, …); name one that "
            "was trained on these, or correct the names in its config.json."
        )
    known = classifier_digest(weights)
    return ClassifierTeacher(name_head(model, class_names, 0), digest([known, templates]) if templates else known)
