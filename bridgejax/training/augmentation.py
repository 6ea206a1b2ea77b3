"""What a step changes at random about each image by itself: RandAugment and random erasing, before Mixup and CutMix.

Draws are of the state's key, its step and the image's row, whatever the devices and the parts of an accumulated batch.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.errors import UserError, choices, whole_number
from bridgejax.known_names import ERASING_FILLS
from bridgejax.training import batches
from bridgejax.training.option_checks import check_number
from bridgejax.training.randaugment import MOST, randaugment

AREAS = (0.02, 1 / 3)  # of erased boxes, as a share of the image
ASPECT = 0.3  # their height over width is from this to 1 over it, log-uniform
_TRIES = 10  # boxes drawn until one fits


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How images are augmented; the defaults leave them as they are.

    Raises:
      UserError: one is out of range.
    """

    erasing: float = 0.0  # how often a box of an image is erased (Zhong et al. 2017, arXiv 1708.04896), in [0, 1].
    erasing_fill: str = "pixel"  # with what, after normalisation: "pixel", unit normal noise, or "zero"
    randaugment: float = 0.0  # RandAugment's magnitude in [0, 10]; 0 is none
    randaugment_layers: int = 2  # its operations for an image, at least 1

    def __post_init__(self) -> None:
        check_number("erasing", self.erasing, most=1)
        check_number("randaugment", self.randaugment, most=MOST)
        if self.erasing_fill not in ERASING_FILLS:
            raise UserError(f"erasing_fill is {self.erasing_fill!r}; {choices(self.erasing_fill, ERASING_FILLS)}")
        whole_number("randaugment_layers", self.randaugment_layers, 1)

    @property
    def changes(self) -> bool:
        """Whether it does anything."""
        return bool(self.erasing or self.randaugment)


def row_keys(key: jax.Array, rows: jax.Array, purpose: int) -> jax.Array:
    """Returns a key for each of `rows`, int32 [n]; another `purpose` gives others."""
    # Far from the small numbers that split and fold_in of the same key are given elsewhere.
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 0x6175_0000 + purpose), rows)


def augmented(key: jax.Array, rows: jax.Array, images: jax.Array, model: nnx.Module, how: Augmentation) -> jax.Array:
    """Returns images augmented and normalised, float [n, h, w, 3].

    Args:
      key: of the step.
      rows: int32 [n], the place of each image in the whole batch.
      images: uint8 [n, h, w, 3], or float already normalised.
      model: whose `preprocessing` tells how they are normalised.
      how: what is done.

    Raises:
      UserError: they are no images, or RandAugment needs pixels that nothing tells.
    """
    if images.ndim != 4:
        raise UserError(f"batch['image'] is {list(images.shape)}; erasing and randaugment take images [n, h, w, 3].")
    if how.randaugment:
        mean, std = batches.mean_and_std(model, "randaugment changes pixels", "that tells them.")
        if images.dtype != jnp.uint8:
            images = jnp.clip(jnp.round((images.astype(jnp.float32) * std + mean) * 255), 0, 255).astype(jnp.uint8)
        options = how.randaugment, how.randaugment_layers, jnp.round(255 * mean)
        images = jax.vmap(lambda one, image: randaugment(one, image, *options))(row_keys(key, rows, 0), images)
    images = batches.normalise(images, model)
    if how.erasing:
        images = jax.vmap(lambda one, image: erased(one, image, how.erasing, how.erasing_fill))(row_keys(key, rows, 1), images)
    return images


def erased(key: jax.Array, image: jax.Array, share: float, fill: str) -> jax.Array:
    """Returns a normalised image [h, w, 3], with probability `share` with a box of it filled as `Augmentation` says."""
    height, width = image.shape[:2]
    for_use, for_boxes, for_noise = jax.random.split(key, 3)
    area, aspect, down, right = jax.random.uniform(for_boxes, (4, _TRIES))
    area = (AREAS[0] + area * (AREAS[1] - AREAS[0])) * height * width
    aspect = jnp.exp((2 * aspect - 1) * -math.log(ASPECT))
    rows, columns = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (rows < height) & (columns < width)
    first = jnp.argmax(fits)
    rows, columns = rows[first], columns[first]
    top, left = jnp.floor(down[first] * (height - rows + 1)), jnp.floor(right[first] * (width - columns + 1))
    y, x = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    inside = (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)
    inside &= fits.any() & (jax.random.uniform(for_use) < share)
    value = jax.random.normal(for_noise, image.shape, image.dtype) if fill == "pixel" else jnp.zeros((), image.dtype)
    return jnp.where(inside, value, image)
