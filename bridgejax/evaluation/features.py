"""What a network sees of images: the features that distances are measured in, and the logits that images are judged by."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx
from jax.sharding import Mesh

from bridgejax.errors import UserError
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.mesh import data_sharding, replicate


@under_jax_defaults
def image_features(
    model: nnx.Module, batches: Iterable[Mapping[str, object]], mesh: Mesh | None = None
) -> npt.NDArray[np.float32]:
    """Returns the features of every image, in order: float32 [n, d]; what has more than two axes is flattened.

    Args:
      model: any classifier or vision tower with `features(images)` (or `encode_image(images)`) and `preprocessing`; it runs in
        evaluation mode.
      batches: of equal shape, as `bridgejax.data.eval_batches` gives them: "image" uint8 [b, h, w, 3] (or float, already
        normalised), and if wanted "mask" float [b]; rows of mask 0 are left out.
      mesh: devices of this process whose "data" axis splits the batches; None is the default device.

    Raises:
      UserError: there is no image, images are neither uint8 nor finite float [b, h, w, 3], or the model has neither method.
    """
    method = next((name for name in ("features", "encode_image") if callable(getattr(model, name, None))), None)
    if method is None:
        raise UserError(f"{type(model).__name__} has no features(images) and no encode_image(images); give a classifier.")
    return _rows(model, method, batches, mesh)


@under_jax_defaults
def image_logits(
    model: nnx.Module, batches: Iterable[Mapping[str, object]], mesh: Mesh | None = None
) -> npt.NDArray[np.float32]:
    """Returns a classifier's logits of every image, float32 [n, classes], in order; products are taken in full float32.

    Args:
      model: a classifier with `preprocessing`; it runs in evaluation mode.
      batches, mesh: as `image_features` takes them.

    Raises:
      UserError: there is no image.
    """
    with jax.default_matmul_precision("float32"):
        return _rows(model, "__call__", batches, mesh)


def _rows(
    model: nnx.Module, method: str, batches: Iterable[Mapping[str, object]], mesh: Mesh | None
) -> npt.NDArray[np.float32]:
    graph, state = nnx.split(model)
    try:
        program = _program(graph, method)
    except TypeError:  # a module with attributes that Python cannot hash, such as dicts
        program = _program.__wrapped__(graph, method)
    if mesh is not None:
        state = replicate(state, mesh)
    kind = "logits" if method == "__call__" else "features"
    parts = []
    for batch in batches:
        images = jnp.asarray(batch["image"]) if mesh is None else jax.device_put(batch["image"], data_sharding(mesh))
        if images.ndim != 4 or not (images.dtype == jnp.uint8 or jnp.issubdtype(images.dtype, jnp.floating)):
            raise UserError(
                f"batch['image'] is {images.dtype} {list(images.shape)}; give uint8 [b, h, w, 3], or float already normalised."
            )
        rows, mask = np.asarray(program(state, images), np.float32), batch.get("mask")
        parts.append(rows if mask is None else rows[np.asarray(mask) > 0])
    if not sum(map(len, parts)):
        raise UserError(f"there are no images to take {kind} of; give at least one.")
    table = np.concatenate(parts)
    if not np.isfinite(table).all():
        raise UserError(f"the {kind} of an image hold NaN or infinity; check the images and the model's weights.")
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
