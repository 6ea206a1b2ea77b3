"""The device mesh: which axes there are, how arrays lie on them, and which part of the work each process does."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from bridgejax.errors import TryAgain, UserError
from bridgejax.mesh_axes import DATA_AXIS, FSDP_AXIS, MODEL_AXIS, axis_names, axis_rules, mesh_axes

# A regular expression, searched in a parameter's dotted path, and the mesh axes of its leading dimensions.
ParameterRule = tuple[str, PartitionSpec]
Axes = str | Sequence[str] | None  # that one dimension is split over
ParameterRuleLike = tuple[str, PartitionSpec | Sequence[Axes]]
Tree = TypeVar("Tree")
Index = tuple[slice, ...]

_OUT = r"(to_[qkv]|add_[qkv]_proj|[qkv]_proj|[qkv]|query|key|value|net\.0\.proj|fc1|wi(_\d)?|linear_1|proj_in|time_emb_proj)"
_IN = r"(to_out\.0|to_add_out|out_proj|o|proj_attn|net\.2|fc2|wo|linear_2|proj_out)"
# Tensor parallel, as in Megatron-LM (Shoeybi et al. 2019, arXiv:1909.08053, section 3): the first of two products is cut by
# its outputs and the second by its inputs, so that the pair needs one sum over the axis. Convolutions are cut by outputs.
PARAMETER_RULES: tuple[ParameterRule, ...] = (
    (r"\.kernel$", PartitionSpec(None, None, None, MODEL_AXIS)),
    (rf"\b{_OUT}\.kernel$", PartitionSpec(None, MODEL_AXIS)),
    (rf"\b({_OUT}|conv(?!_norm)\w*|\w+_conv)\.bias$", PartitionSpec(MODEL_AXIS)),
    (rf"\b{_IN}\.kernel$", PartitionSpec(MODEL_AXIS, None)),
)
BATCH_AXES = (DATA_AXIS, FSDP_AXIS)  # that a batch is split over
OTHERS_GONE = (
    "another process of this run ended or could not be reached; its own message says why; rerun the command to resume."
)
WHOLE_BELOW = 1024  # values: of a smaller array, each device keeps a whole copy, whatever the fsdp axis

# Each of these makes random numbers depend on how arrays are sharded, so that an image would no longer be its seed.
_FORBIDDEN_FLAGS = ("xla_tpu_spmd_rng_bit_generator_unsafe",)


def _setting(name: str) -> object:
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


def make_mesh(axes: Iterable[tuple[str, int]] | None = None, devices: list[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with automatic sharding over the given axes.

    Args:
      axes: ordered (name, size) pairs; one size may be -1 (all devices that are left). None: all on "data".
      devices: the devices to use; None means `jax.devices()`.

    Raises:
      UserError: `axes` are no such pairs, or the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    pairs = mesh_axes(axes or [(DATA_AXIS, -1)])
    names = tuple(name for name, _ in pairs)
    sizes = [size for _, size in pairs]
    shown = ", ".join(f"{name}={size}" for name, size in pairs)
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh {shown} does not fit {len(devices)} devices; make the sizes multiply to {len(devices)}, for instance "
            f"{_fitting_sizes(pairs, len(devices))}, or use -1 for one."
        )
    return Mesh(np.asarray(devices).reshape(sizes), names, axis_types=(AxisType.Auto,) * len(names))


def _fitting_sizes(pairs: Sequence[tuple[str, int]], devices: int) -> str:
    """Returns sizes for the axes that multiply to the number of devices: those given, but for one where that is enough."""
    sizes = [abs(size) for _, size in pairs]
    for number, size in enumerate(sizes):
        others = math.prod(sizes) // size
        if devices % others == 0:
            sizes[number] = devices // others
            break
    else:
        sizes = [devices, *(1 for _ in sizes[1:])]
    return ", ".join(f"{name}={size}" for (name, _), size in zip(pairs, sizes, strict=True))


@functools.cache
def automatic(mesh: Mesh) -> Mesh:
    """Returns the mesh with axes over which XLA places what no sharding names, as bridgejax's programs expect.

    `jax.make_mesh` makes Explicit axes unless told otherwise. Every sharding made here is of the automatic mesh of its mesh.
    """
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def context_of(mesh: Mesh | None) -> contextlib.AbstractContextManager[object]:
    """Returns a context in which programs for a mesh run also where the caller has set one of Explicit axes."""
    around = jax.sharding.get_abstract_mesh()
    if mesh is None or around.empty or all(kind == AxisType.Auto for kind in around.axis_types):
        return contextlib.nullcontext()
    return jax.set_mesh(automatic(mesh))


def data_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding that splits an axis of an array over "data" and "fsdp" (replicated if the mesh has neither)."""
    axes = tuple(name for name in BATCH_AXES if name in mesh.axis_names)
    spec = PartitionSpec(*(None,) * axis, axes if len(axes) > 1 else axes[0]) if axes else PartitionSpec()
    return NamedSharding(automatic(mesh), spec)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a whole copy on each device."""
    return NamedSharding(automatic(mesh), PartitionSpec())


def data_size(mesh: Mesh | None) -> int:
    """Returns in how many parts a batch is split."""
    return 1 if mesh is None else math.prod(mesh.shape.get(name, 1) for name in BATCH_AXES)


def nearest_multiples(size: int, of: int) -> str:
    """Returns the positive multiples of a number that are nearest to a size, in words: "8 or 12"."""
    below = size // of * of
    return f"{below} or {below + of}" if below > 0 else str(of)


def shard_batch(mesh: Mesh | None, batch: object) -> Any:
    """Puts this process's part of a batch on its devices, split over "data" and "fsdp".

    Args:
      mesh: the mesh; None leaves placement to JAX.
      batch: a tree of arrays whose leading axis is this process's share of the global batch.
    """
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, batch)
    sharding = data_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def parameter_rules(pairs: Iterable[ParameterRuleLike] = ()) -> tuple[ParameterRule, ...]:
    """Returns the rules of a user, checked, followed by `PARAMETER_RULES`.

    Args:
      pairs: (regular expression, axes) in order; `axes` is a PartitionSpec or a sequence with an axis name, a sequence of
        axis names or None for each leading dimension.

    Raises:
      UserError: a pair is not of that form; it is shown.
    """
    return (*own_rules(pairs), *PARAMETER_RULES)


def own_rules(pairs: Iterable[object] = ()) -> tuple[ParameterRule, ...]:
    """Returns the rules of a user, checked, without the built-in ones; see `parameter_rules`."""
    return tuple((pattern, PartitionSpec(*axes)) for pattern, axes in axis_rules(pairs))


def parameter_sharding(
    mesh: Mesh, path: str, shape: Sequence[int], rules: Sequence[ParameterRule] = PARAMETER_RULES
) -> NamedSharding:
    """Returns how a parameter lies on the mesh.

    The first rule holds whose expression is found in the path and that names no more dimensions than there are; without
    one, each device keeps a whole copy. An axis that the mesh lacks splits nothing, and a dimension that its axes do not
    divide is not split.

    Args:
      mesh: the mesh.
      path: dotted, from the component on, such as "unet.mid_block.attentions.0.proj_in.kernel".
      shape: of the parameter.
      rules: of `parameter_rules`.
    """
    for pattern, spec in rules:
        if len(spec) <= len(shape) and re.search(pattern, path):
            axes = (_fitting(mesh, axis, n) for axis, n in zip(spec, shape, strict=False))
            return NamedSharding(automatic(mesh), PartitionSpec(*axes))
    return replicated(mesh)


def state_sharding(mesh: Mesh, path: str, shape: Sequence[int], rules: Sequence[ParameterRule] = ()) -> NamedSharding:
    """Returns how an array of a state of training lies on the mesh; an optimiser's slot lies as its parameter does.

    A rule of the user holds as it stands. Otherwise `parameter_sharding` splits over "model", and "fsdp" splits the largest of
    the other dimensions that it divides, of arrays of at least `WHOLE_BELOW` values (fully sharded data parallelism,
    Rajbhandari et al. 2020, arXiv:1910.02054, stage 3).

    Args:
      mesh: the mesh.
      path: the dotted path of the parameter.
      shape: of the array.
      rules: of `own_rules`; the built-in ones come after them.
    """
    sharding = parameter_sharding(mesh, path, shape, (*rules, *PARAMETER_RULES))
    size = mesh.shape.get(FSDP_AXIS, 1)
    if size == 1 or math.prod(shape) < WHOLE_BELOW or FSDP_AXIS in axis_names(sharding.spec):
        return sharding
    if any(len(spec) <= len(shape) and re.search(pattern, path) for pattern, spec in rules):
        return sharding
    axes = [*sharding.spec, *(None for _ in shape[len(sharding.spec) :])]
    free = [number for number, axis in enumerate(axes) if axis is None and shape[number] % size == 0]
    if free:
        axes[max(free, key=lambda number: shape[number])] = FSDP_AXIS
    return NamedSharding(automatic(mesh), PartitionSpec(*axes))


def _fitting(mesh: Mesh, axis: Axes, size: int) -> str | tuple[str, ...] | None:
    names = () if axis is None else (axis,) if isinstance(axis, str) else tuple(axis)
    names = tuple(name for name in names if name in mesh.shape)
    if not names or size % math.prod(mesh.shape[name] for name in names):
        return None
    return names if len(names) > 1 else names[0]


def make_put(
    mesh: Mesh, rules: Sequence[ParameterRule] = PARAMETER_RULES
) -> Callable[[str, Sequence[int], DTypeLike, Callable[[Index], np.ndarray]], jax.Array]:
    """Returns `put(path, shape, dtype, read)`, which places one parameter: every slice is read once, straight into its devices.

    `read(index)` returns the slice of the parameter at a tuple of `slice`s, as a contiguous array of `dtype`. A process reads
    only what its own devices hold.
    """

    def put(path: str, shape: Sequence[int], dtype: DTypeLike, read: Callable[[Index], np.ndarray]) -> jax.Array:
        parts: dict[tuple[tuple[int | None, int | None], ...], np.ndarray] = {}

        def part(index: Index | None) -> np.ndarray:
            where = tuple(index or ())
            key = tuple((side.start, side.stop) for side in where)
            if key not in parts:
                parts[key] = read(where)
            return parts[key]

        return jax.make_array_from_callback(tuple(shape), parameter_sharding(mesh, path, shape, rules), part, dtype=dtype)

    return put


def make_abstract_put(
    mesh: Mesh, rules: Sequence[ParameterRule] = PARAMETER_RULES
) -> Callable[[str, Sequence[int], DTypeLike, object], jax.ShapeDtypeStruct]:
    """Returns a `put` like `make_put`'s that reads nothing and gives shape, dtype and sharding alone."""

    def put(path: str, shape: Sequence[int], dtype: DTypeLike, read: object) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=parameter_sharding(mesh, path, shape, rules))

    return put


def bytes_per_device(tree: object) -> int:
    """Returns what each device holds of a tree of arrays (or of their shapes with shardings), in bytes.

    A leaf without a sharding counts whole.
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


# Several processes


def generation_mesh(axes: Iterable[tuple[str, int]] | None = None) -> Mesh:
    """Returns the mesh on which this process generates: its own devices, since each process makes its own shards.

    With one process that is `make_mesh(axes)`. With several, "data" takes what the other axes leave of this process's
    devices, whatever its size says (that counts the devices of all processes), and takes those of "fsdp" too.

    Raises:
      UserError: the axes do not fit.
    """
    if jax.process_count() == 1:
        return make_mesh(axes)
    given = mesh_axes(axes or [(DATA_AXIS, -1)])
    others = [(name, size) for name, size in given if name not in BATCH_AXES]
    return make_mesh([(DATA_AXIS, -1), *others] if len(others) < len(given) else others, jax.local_devices())


def local_rows(mesh: Mesh | None, rows: int) -> slice:
    """Returns which rows of a global batch of `rows` this process puts on its devices (all of them with one process).

    Raises:
      UserError: the mesh gives this process rows that do not lie together.
    """
    if mesh is None or jax.process_count() == 1:
        return slice(0, rows)
    indices = data_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    spans = {(slice(None) if index is None else index[0]).indices(rows)[:2] for index in indices}
    start, stop = min(first for first, _ in spans), max(last for _, last in spans)
    if sum(last - first for first, last in spans) != stop - start:
        raise UserError(
            f"mesh {dict(mesh.shape)} gives a process rows of a batch that do not lie together; put the 'data' axis first."
        )
    return slice(start, stop)


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Returns the tree with a whole copy of each array on each device of the mesh; every process holds the same values."""
    sharding = replicated(mesh)
    return put_tree(tree, jax.tree.map(lambda _: sharding, tree))


def put_tree(tree: Tree, shardings: object) -> Tree:
    """Returns the tree with each array laid out by its sharding in `shardings`, a tree of the same form.

    Every process holds the same values.
    """

    def put(x: ArrayLike, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        if isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return _mover(sharding)(x)
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index], dtype=host.dtype)

    return jax.device_put(tree, shardings) if jax.process_count() == 1 else jax.tree.map(put, tree, shardings)


def local_copy(x: Tree) -> Tree:
    """Returns an array of a mesh of several processes whole, as an array of this process alone; others as they are.

    All processes have to ask for an array that is split.
    """
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return x
    whole = x if x.is_fully_replicated else _mover(replicated(x.sharding.mesh))(x)  # type: ignore[attr-defined]
    return whole.addressable_data(0)  # type: ignore[return-value]


@functools.cache
def _mover(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=sharding)


def barrier(name: str) -> None:
    """Returns when every process is here; at once with one process.

    Raises:
      TryAgain: another process ended.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        with _all_there():
            multihost_utils.sync_global_devices(name)


def gathered(x: np.ndarray) -> np.ndarray:
    """Returns the arrays of all processes, stacked in their order: [processes, …]; all of them have to ask.

    Raises:
      TryAgain: another process ended.
    """
    if jax.process_count() == 1:
        return x[None]
    from jax.experimental import multihost_utils

    with _all_there():
        return np.asarray(multihost_utils.process_allgather(x))


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Returns in every process whether each flag is set in any: clocks and signals differ, collective work must not."""
    return tuple(bool(each.any()) for each in gathered(np.asarray(flags)).T)


def total(count: int) -> int:
    """Returns the sum of every process's count, in every process."""
    return int(gathered(np.asarray(count)).sum())


def lost_another(error: BaseException) -> bool:
    """Tells whether an error of a collective operation says that another process is gone.

    JAX has no type for it, and raises a ValueError where the operation begins after that; but the library is named.
    """
    of_jax = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    return of_jax and re.search("gloo|nccl|coordination service", str(error), re.IGNORECASE) is not None


@contextlib.contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if isinstance(error, ValueError) and not lost_another(error):
            raise
        raise TryAgain(OTHERS_GONE) from error
