"""What every classifier has: preprocessing, features, a linear head, ordered blocks and their initial values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from bridgejax.errors import UserError
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.models.convolution import widened
from bridgejax.models.initializers import Initializer


@dataclass(frozen=True)
class Preprocessing:
    """What a classifier expects of its input.

    Attributes:
      size: side of the square input in pixels that the weights were made for; other sizes work.
      mean, std: per channel (red, green, blue), in units where a pixel lies in [0, 1]: input = (pixel - mean) / std.
      crop: share of the shorter side that the central evaluation crop keeps, in (0, 1].
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float


def normalised(images: ArrayLike) -> jax.Array:
    """Returns `images` as an array that a classifier takes: float [n, h, w, 3], already resized and normalised.

    Raises:
      UserError: the images have another shape, or hold whole numbers (pixels).
    """
    array = jnp.asarray(images)
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.ndim != 4 or array.shape[-1] != 3:
        raise UserError(
            f"images are {array.dtype} {list(array.shape)}; a classifier takes float [n, h, w, 3], normalised as its "
            "`preprocessing` says: (pixel / 255 - mean) / std (only training and evaluation steps take uint8)."
        )
    return array


class Classifier(nnx.Module):
    """A network with a linear head, or the mean of several. Subclasses set the attributes, `features` and `initializers`.

    Attributes:
      architecture: the name of the network's kind, as the registry knows it.
      num_classes: outputs of the head.
      preprocessing: what images must be.
      class_names: of the outputs, in order; () where nothing names them.
      head: the last layer; its parameters are what "head" means where parts of a network are named.
      blocks: the repeated parts in the order in which images pass them.
      after_blocks: names of the modules between the last block and the head.
    """

    architecture: ClassVar[str]
    after_blocks: ClassVar[tuple[str, ...]] = ()
    num_classes: int
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()
    head: nnx.Module
    blocks: nnx.List

    @property
    def feature_width(self) -> int:
        """How wide the features are."""
        return int(getattr(self.head, "in_features"))  # noqa: B009 (nnx.Module does not declare it)

    def __init_subclass__(cls, **options: bool) -> None:
        """Lets what users call of a subclass run under JAX's default rules."""
        super().__init_subclass__(**options)
        for name in ("features", "encode_image", "encode_text"):
            if name in vars(cls):
                setattr(cls, name, under_jax_defaults(vars(cls)[name]))

    def features(self, images: jax.Array) -> jax.Array:
        """Returns what the head sees, float32 [n, feature_width], of normalised images, float [n, h, w, 3]."""
        raise NotImplementedError

    def initializers(self) -> Sequence[Initializer]:
        """Returns how each parameter starts: the first rule whose pattern matches the end of its dotted path holds."""
        raise NotImplementedError

    @under_jax_defaults
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits, float32 [n, num_classes], of images as `features` takes them.

        Raises:
          UserError: the images are not float [n, h, w, 3].
        """
        return widened(self.head(self.features(normalised(images))))
