"""How published weights enter and leave: safetensors in PyTorch's names and layout, whole or not at all.

A model is built abstractly (`nnx.eval_shape`), then `assign` fills every parameter from a table of rules; a
tensor that is missing, left over, of the wrong shape or not finite is an error that names it. `export` is the
inverse.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import EllipsisType
from typing import NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bridgejax.errors import UserError

Model = TypeVar("Model", bound=nnx.Module)
ParameterPath = tuple[str | int, ...]  # of a parameter within its model
Index = tuple[slice, ...]


class Put(Protocol):
    """Places one parameter, such as `bridgejax.mesh.make_put` makes it."""

    def __call__(
        self, path: str, shape: Sequence[int], dtype: DTypeLike, read: Callable[[Index], np.ndarray], /
    ) -> jax.Array | jax.ShapeDtypeStruct:
        """Returns the parameter at the dotted `path`; `read(index)` is a slice of it, a contiguous array of `dtype`."""


# The axes of a source tensor in the order in which the model wants them, and back.
_TRANSPOSE: dict[str, tuple[int, ...]] = {"conv": (2, 3, 1, 0), "linear": (1, 0)}
_INVERSE: dict[str, tuple[int, ...]] = {"conv": (3, 2, 0, 1), "linear": (1, 0)}
_TOGETHER_BYTES = 1 << 25  # of parameters that go to a device in one call
# A constant that old text encoders saved beside their weights.
_CONSTANTS = re.compile(r"(^|\.)(position_ids|num_batches_tracked)$")


class Rule(NamedTuple):
    """One line of a weight table: which of our parameters, under which source name, laid out how."""

    pattern: str  # regular expression for the whole dotted path of a parameter of the model
    source: str  # the source tensor's name, a template for `re.Match.expand`
    transform: str = "none"  # "conv" (OIHW → HWIO, depthwise too), "linear" (transposed) or "none"


def torch_rules(*special: Rule, conv: str = r"(?!)") -> tuple[Rule, ...]:
    """Returns the rules of a model whose paths are those of PyTorch's state dict, after `special` ones.

    Args:
      special: rules that go before the general ones.
      conv: regular expression for the paths (without `.kernel`) of the convolutions; other kernels are dense.
    """
    return (
        *special,
        Rule(rf"({conv})\.kernel", r"\1.weight", "conv"),
        Rule(r"(.+)\.kernel", r"\1.weight", "linear"),
        Rule(r"(.+)\.(?:scale|embedding)", r"\1.weight"),
        Rule(r"(.+\.bias)", r"\1"),
    )


def layer_rules(ours: str, theirs: str, transform: str = "linear") -> tuple[Rule, Rule]:
    """Returns the rules of a layer's weight and bias; the weight of a layer without a transform (a norm) is its scale."""
    weight = "scale" if transform == "none" else "kernel"
    return Rule(rf"{ours}\.{weight}", f"{theirs}.weight", transform), Rule(rf"{ours}\.bias", f"{theirs}.bias")


def _dotted(path: ParameterPath) -> str:
    return ".".join(str(part) for part in path)


def _source_of(path: str, rules: Sequence[Rule]) -> tuple[str, str]:
    for rule in rules:
        if match := re.fullmatch(rule.pattern, path):
            return match.expand(rule.source), rule.transform
    raise UserError(f"no rule of the weight table says where parameter {path} comes from; add one.")


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more


def _parameters(model: Model) -> tuple[nnx.GraphDef[Model], dict[ParameterPath, nnx.Variable]]:
    graph, state = nnx.split(model)
    return graph, dict(nnx.to_flat_state(state))  # type: ignore[arg-type]


def assign(
    model: Model,
    tensors: Mapping[str, np.ndarray],
    rules: Sequence[Rule],
    where: str,
    *,
    dtype: DTypeLike | None = None,
    put: Put | None = None,
    spell: Callable[[str], str] = str,
) -> Model:
    """Returns a copy of `model` (abstract or not) with every parameter filled.

    Args:
      model: a module, usually from `nnx.eval_shape`; only shapes and dtypes are read.
      tensors: source name → array.
      rules: the weight table; the first rule that matches a parameter's dotted path holds.
      where: the file or folder, for error messages.
      dtype: dtype of floating-point parameters; None keeps the model's.
      put: places one array, given (dotted path, shape, dtype, read), where read(index) is a slice of it as a contiguous
        array; None means the default device.
      spell: says how a source name is written in the file, for error messages (files in another layout).

    Raises:
      UserError: a tensor is missing, unused, of another shape, not floating-point, or holds NaN or infinity; the first
        few are named.
    """
    graph, parameters = _parameters(model)
    plan = {path: _source_of(_dotted(path), rules) for path in parameters}
    if missing := {source for source, _ in plan.values()} - set(tensors):
        names = {spell(name) for name in missing}
        raise UserError(f"{where}: {len(names)} tensors are missing ({_some(names)}); the file does not fit the config.")
    if unused := {name for name in tensors if not _CONSTANTS.search(name)} - {source for source, _ in plan.values()}:
        names = {spell(name) for name in unused}
        raise UserError(
            f"{where}: {len(names)} tensors have no place in the model ({_some(names)}); the file does not fit the config."
        )
    filled: dict[ParameterPath, jax.Array | jax.ShapeDtypeStruct] = {}
    waiting: dict[ParameterPath, np.ndarray] = {}
    size = 0
    for path, (source, transform) in plan.items():
        variable = parameters[path]
        array = original = np.asarray(tensors[source])
        if transform in _TRANSPOSE and array.ndim == len(_TRANSPOSE[transform]):
            array = array.transpose(_TRANSPOSE[transform])
        expected = tuple(variable.get_value().shape)
        if array.shape != expected:
            raise UserError(
                f"{where}: tensor {spell(source)} has shape {list(original.shape)}, but the config asks for "
                f"{_source_shape(expected, transform)}."
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(
                f"{where}: tensor {spell(source)} has dtype {array.dtype}, but weights must be float32, float16 or bfloat16; "
                "get the file that is not quantised."
            )
        target = variable.get_value().dtype
        if dtype is not None and jnp.issubdtype(target, jnp.floating):
            target = dtype

        def read(
            index: Index | EllipsisType, array: np.ndarray = array, target: DTypeLike = target, name: str = source
        ) -> np.ndarray:
            part = array[index]
            if not np.isfinite(part.astype(np.float32, copy=False)).all():
                raise UserError(f"{where}: tensor {spell(name)} holds NaN or infinity; the file is damaged, fetch it again.")
            return part.astype(target, order="C")

        if put is None:
            waiting[path] = read(...)
            size += waiting[path].nbytes
            if size > _TOGETHER_BYTES:
                filled |= _placed(waiting)
                size = 0
        else:
            filled[path] = put(_dotted(path), expected, target, read)
        _forget(original)
    filled |= _placed(waiting)
    variables = {path: parameters[path].replace(value) for path, value in filled.items()}
    return nnx.merge(graph, nnx.from_flat_state(variables))  # type: ignore[arg-type]


def _placed(waiting: dict[ParameterPath, np.ndarray]) -> dict[ParameterPath, jax.Array]:
    """Moves arrays to the default device and empties `waiting`: one call for many small ones, and no program for any shape."""
    placed = dict(zip(waiting, jax.device_put(list(waiting.values())), strict=True))
    waiting.clear()
    return placed


def _forget(array: np.ndarray) -> None:
    """Takes the pages of a memory-mapped file out of this process's memory; they are read again if wanted."""
    base: object = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _source_shape(shape: tuple[int, ...], transform: str) -> list[int]:
    return [shape[axis] for axis in _INVERSE.get(transform, range(len(shape)))]


def export(model: nnx.Module, rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """Returns the parameters under their source names and in the source's layout, ready for safetensors."""
    tensors = {}
    for path, variable in _parameters(model)[1].items():
        source, transform = _source_of(_dotted(path), rules)
        array = np.asarray(variable.get_value())
        if transform in _INVERSE:
            array = array.transpose(_INVERSE[transform])
        tensors[source] = np.ascontiguousarray(array)
    return tensors
