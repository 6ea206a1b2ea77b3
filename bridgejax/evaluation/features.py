"""What a backbone sees of images: the features that distances are measured in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.jax_defaults import under_jax_defaults


@under_jax_defaults
def image_features(model: nnx.Module, batches: Iterable[Mapping[str, object]]) -> npt.NDArray[np.float32]:
    """Returns the features of every image, in order.

    Args:
      model: any classifier or vision tower with `features(images)` (or `encode_image(images)`) and `preprocessing`; it runs in
        evaluation mode.
      batches: of equal shape, as `bridgejax.data.eval_batches` gives them: "image" uint8 [b, h, w, 3] (or float, already
        normalised), and if wanted "mask" float [b]; rows of mask 0 are left out.

    Returns:
      float32 [n, d]; what has more than two axes is flattened.

    Raises:
      UserError: there is no image, images are neither uint8 nor finite float [b, h, w, 3], or the model has neither method.
    """
    method = next((name for name in ("features", "encode_image") if callable(getattr(model, name, None))), None)
    if method is None:
        raise UserError(f"{type(model).__name__} has no features(images) and no encode_image(images); give a classifier.")
    graph, state = nnx.split(model)
    try:
        program = _program(graph, method)
    except TypeError:  # a module with attributes that Python cannot hash, such as dicts
        program = _program.__wrapped__(graph, method)
    features = []
    for batch in batches:
        image, mask = jnp.asarray(batch["image"]), batch.get("mask")
        if image.ndim != 4 or not (image.dtype == jnp.uint8 or jnp.issubdtype(image.dtype, jnp.floating)):
            raise UserError(
                f"batch['image'] is {image.dtype} {list(image.shape)}; give uint8 [b, h, w, 3], or float already normalised."
            )
        rows = np.asarray(program(state, image), np.float32)
        features.append(rows if mask is None else rows[np.asarray(mask) > 0])
    if not sum(map(len, features)):
        raise UserError("there are no images to take features of; give at least one.")
    table = np.concatenate(features)
    if not np.isfinite(table).all():
        raise UserError("the features of an image hold NaN or infinity; check the images and the model's weights.")
    return table


@functools.lru_cache(maxsize=8)
def _program(graph: nnx.GraphDef[nnx.Module], method: str) -> Callable[[Any, jax.Array], jax.Array]:
    @jax.jit
    def run(state: Any, images: jax.Array) -> jax.Array:
        model: Any = nnx.merge(graph, state)
        model.eval()
        values = images
        if images.dtype == jnp.uint8:
            mean, std = (jnp.asarray(getattr(model.preprocessing, name), jnp.float32) for name in ("mean", "std"))
            values = (images.astype(jnp.float32) / 255.0 - mean) / std
        rows: jax.Array = getattr(model, method)(values)
        return rows.reshape(rows.shape[0], -1).astype(jnp.float32)

    return run
