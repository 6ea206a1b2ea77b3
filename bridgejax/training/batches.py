"""What a batch must hold, checked before it reaches a jitted step."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from bridgejax.errors import UserError
from bridgejax.mesh import data_sharding, data_size, local_rows, nearest_multiples, shard_batch

Array = jax.Array | np.ndarray
Batch = dict[str, Array]  # checked: rows agree, kinds of numbers are right
_DIMENSIONS = {"label": 1, "mask": 1, "teacher_logits": 2, "view": 4}


def checked_batch(batch: object, required: tuple[str, ...], optional: tuple[str, ...] = ("mask",)) -> Batch:
    """Returns the parts of a batch that a step uses; other keys (ids, prompts) are left out.

    Raises:
      UserError: a required key is missing, or a part has the wrong kind of numbers or shape.
    """
    if not isinstance(batch, Mapping):
        raise UserError(f"the batch is a {type(batch).__name__}; give a dict with {' and '.join(map(repr, required))}.")
    for key in required:
        if batch.get(key) is None:
            present = ", ".join(map(repr, batch)) or "nothing"
            raise UserError(f"the batch has no {key!r} (it holds {present}); give one entry per image under {key!r}.")
    parts = {key: _array(key, batch[key]) for key in (*required, *optional) if batch.get(key) is not None}
    image = parts["image"]
    if image.ndim < 2 or not (image.dtype == np.uint8 or jnp.issubdtype(image.dtype, jnp.floating)):
        raise UserError(
            f"batch['image'] is {image.dtype} {list(image.shape)}; give uint8 [n, h, w, 3], or float already normalised."
        )
    rows = image.shape[0]
    if rows == 0:
        raise UserError("the batch is empty; give at least one image.")
    for key, part in parts.items():
        if part.ndim != _DIMENSIONS.get(key, part.ndim) or part.ndim == 0 or part.shape[0] != rows:
            raise UserError(
                f"batch[{key!r}] has shape {list(part.shape)}, but there are {rows} images; give one row per image."
            )
    if "label" in parts and not np.issubdtype(parts["label"].dtype, np.integer):
        raise UserError(f"batch['label'] is {parts['label'].dtype}; give class numbers from 0 as whole numbers (int32).")
    mask = parts.get("mask")
    if mask is not None and not (mask.dtype == bool or jnp.issubdtype(mask.dtype, jnp.number)):
        raise UserError(f"batch['mask'] is {mask.dtype}; give a weight of at least 0 for each image.")
    if isinstance(mask, np.ndarray) and not (np.isfinite(mask) & (mask >= 0)).all():
        raise UserError(
            "batch['mask'] holds a number that is negative or not finite; give a weight of at least 0 for each image."
        )
    return parts


def check_labels(parts: Mapping[str, Array], classes: int) -> None:
    """Checks that the labels of rows that count are in [0, classes).

    Raises:
      UserError: one is not.
    """
    label = np.asarray(parts["label"])
    counted = label if "mask" not in parts else label[np.asarray(parts["mask"]) > 0]
    if counted.size and (counted.min() < 0 or counted.max() >= classes):
        wrong = counted[(counted < 0) | (counted >= classes)][0]
        raise UserError(
            f"batch['label'] holds {wrong}, but the model has {classes} classes (labels 0 to {classes - 1}); "
            "correct the labels, or give the model as many classes as the task."
        )


def normalise(images: jax.Array, model: nnx.Module) -> jax.Array:
    """Returns float images as they are, and uint8 ones as (x / 255 - mean) / std of the model's `preprocessing`.

    Raises:
      UserError: the images are uint8 and the model has no `preprocessing`.
    """
    if images.dtype != jnp.uint8:
        return images
    mean, std = mean_and_std(
        model, "batch['image'] is uint8", "(mean and std) to normalise with; give normalised float32 images."
    )
    # One multiply-add per pixel: (x / 255 - mean) / std.
    return images.astype(jnp.float32) * (1.0 / (255.0 * std)) - mean / std


def mean_and_std(model: nnx.Module, use: str, advice: str) -> tuple[jax.Array, jax.Array]:
    """Returns what a model's images are normalised by, float32 [3] each; `use` and `advice` begin and end the message.

    Raises:
      UserError: the model has no `preprocessing`.
    """
    preprocessing = getattr(model, "preprocessing", None)
    if preprocessing is None:
        raise UserError(f"{use}, but {type(model).__name__} has no `preprocessing` {advice}")
    return jnp.asarray(preprocessing.mean, jnp.float32), jnp.asarray(preprocessing.std, jnp.float32)


def place(parts: Batch, mesh: Mesh | None, count: int = 1) -> dict[str, jax.Array]:
    """Returns the parts on the mesh's devices, split over "data" and "fsdp"; on the default device without a mesh.

    Nothing is waited for.

    Args:
      parts: of `checked_batch`.
      mesh: the mesh.
      count: what the rows of a device are split into further.

    Raises:
      UserError: the rows do not split so; the nearest numbers of rows that do are named.
    """
    size = data_size(mesh)
    own, rows = local_rows(mesh, size), parts["image"].shape[0]
    # A process gives its own rows, or a global array.
    devices = size if isinstance(parts["image"], jax.Array) else own.stop - own.start
    if rows % (devices * count):
        each = f" in {count} parts each" if count > 1 else ""
        nearest = nearest_multiples(rows, devices * count)
        raise UserError(f"a batch of {rows} does not split over {devices} devices{each}; make it {nearest}.")
    if mesh is None:
        return jax.device_put(parts)
    sharding = data_sharding(mesh)
    placed = {}
    for key, value in parts.items():
        if isinstance(value, jax.Array) and not _lies_so(value, sharding):
            placed[key] = jax.device_put(value, sharding)
        else:
            placed[key] = value if isinstance(value, jax.Array) else shard_batch(mesh, value)
    return placed


def in_parts(rows: jax.Array, count: int, devices: int) -> jax.Array:
    """Returns rows [n, …] as parts [count, n / count, …]; each holds as many rows of every one of the devices' shares."""
    apart = rows.reshape(devices, count, -1, *rows.shape[1:]).swapaxes(0, 1)
    return apart.reshape(count, -1, *rows.shape[1:])


def of_parts(parts: jax.Array, devices: int) -> jax.Array:
    """Returns the rows of `in_parts` in their order."""
    apart = parts.reshape(parts.shape[0], devices, -1, *parts.shape[2:]).swapaxes(0, 1)
    return apart.reshape(-1, *parts.shape[2:])


def _lies_so(value: jax.Array, sharding: NamedSharding) -> bool:
    """Whether an array lies as a sharding says, on a mesh whose axes are of the same type."""
    mesh = getattr(value.sharding, "mesh", sharding.mesh)
    return value.sharding.is_equivalent_to(sharding, value.ndim) and mesh == sharding.mesh


def _array(key: str, value: object) -> Array:
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise UserError(f"batch[{key!r}] is not an array ({error}); give one whose rows have one shape.") from error
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype not in (np.int64, np.uint32, np.uint64):
        return array
    if array.size and not (np.iinfo(np.int32).min <= array.min() and array.max() <= np.iinfo(np.int32).max):
        raise UserError(f"batch[{key!r}] holds {array.max()}, which is beyond int32; give class numbers from 0.")
    return array.astype(np.int32)
