"""The device mesh: which axes there are and how arrays lie on them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bridgejax.errors import UserError

DATA_AXIS = "data"

# Each of these makes random numbers depend on how arrays are sharded, so that an image would no longer be its seed.
_FORBIDDEN_FLAGS = ("xla_tpu_spmd_rng_bit_generator_unsafe",)


def _setting(name: str) -> Any:
    return getattr(jax.config, name)  # JAX declares its settings at run time, out of a type checker's sight


def check_randomness() -> None:
    """Refuses settings under which noise would depend on the device count.

    Raises:
      UserError: the default key type is not threefry, or an XLA flag that breaks its invariance is set.
    """
    implementation = str(_setting("jax_default_prng_impl"))
    if implementation != "threefry2x32":
        raise UserError(
            f"jax_default_prng_impl is {implementation!r}, whose numbers change with batch and sharding; "
            "unset JAX_DEFAULT_PRNG_IMPL (bridgejax needs 'threefry2x32')."
        )
    if not _setting("jax_threefry_partitionable"):
        raise UserError(
            "jax_threefry_partitionable is off, so noise would change with sharding; unset JAX_THREEFRY_PARTITIONABLE."
        )
    for variable in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        for flag in os.environ.get(variable, "").split():
            name, _, value = flag.lstrip("-").partition("=")
            if name in _FORBIDDEN_FLAGS and value.lower() not in ("false", "0"):
                raise UserError(f"{variable} sets {name}, under which noise changes with the device count; remove it.")


def make_mesh(axes: Iterable[tuple[str, int]] | None = None, devices: list[Any] | None = None) -> Mesh:
    """Returns a mesh with automatic sharding over the given axes.

    Args:
      axes: ordered (name, size) pairs; one size may be -1 (all devices that are left). None: all on "data".
      devices: the devices to use; None means `jax.devices()`.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    found = jax.devices() if devices is None else devices
    pairs = [(str(name), int(size)) for name, size in axes] if axes else [(DATA_AXIS, -1)]
    names = tuple(name for name, _ in pairs)
    sizes = [size for _, size in pairs]
    shown = ", ".join(f"{name}={size}" for name, size in pairs)
    if len(set(names)) != len(names) or sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"mesh {shown} is not valid: give different axis names and positive sizes, at most one of them -1.")
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(found) % fixed == 0:
        sizes[sizes.index(-1)] = len(found) // fixed
    if math.prod(sizes) != len(found):
        raise UserError(
            f"mesh {shown} does not fit {len(found)} devices; make the sizes multiply to {len(found)} or use -1 for one."
        )
    return Mesh(np.asarray(found).reshape(sizes), names, axis_types=(AxisType.Auto,) * len(names))


def data_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the leading axis of an array over "data" (replicated if there is none)."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS) if DATA_AXIS in mesh.axis_names else PartitionSpec())


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def data_size(mesh: Mesh | None) -> int:
    """Returns in how many parts a batch is split."""
    return 1 if mesh is None else int(mesh.shape.get(DATA_AXIS, 1))


def shard_batch(mesh: Mesh | None, batch: Any) -> Any:
    """Puts this process's part of a batch on its devices, split over "data".

    Args:
      mesh: the mesh; None leaves placement to JAX.
      batch: a tree of arrays whose leading axis is this process's share of the global batch.
    """
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, batch)
    sharding = data_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
