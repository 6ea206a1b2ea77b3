"""How published weights enter and leave: safetensors in PyTorch's names and layout, whole or not at all.

A model is built abstractly (`nnx.eval_shape`), then `assign` fills every parameter from a table of rules; a
tensor that is missing, left over, of the wrong shape or not finite is an error that names it. `export` is the
inverse.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

from bridgejax.errors import UserError

Model = TypeVar("Model", bound=nnx.Module)

_NAMES = ("model", "diffusion_pytorch_model")
_VARIANTS = ("", ".fp32", ".fp16", ".bf16", ".non_ema")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# The axes of a source tensor in the order in which the model wants them, and back.
_TRANSPOSE: dict[str, tuple[int, ...]] = {"conv": (2, 3, 1, 0), "linear": (1, 0)}
_INVERSE: dict[str, tuple[int, ...]] = {"conv": (3, 2, 0, 1), "linear": (1, 0)}
_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
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


def find_weights(folder: Path) -> list[Path]:
    """Returns the safetensors files of a model folder (several if there is an index).

    Raises:
      UserError: there are none; a pickle in their place is named.
    """
    for name in _NAMES:
        for variant in _VARIANTS:
            file = folder / f"{name}{variant}.safetensors"
            if file.is_file():
                return [file]
            for index in (
                folder / f"{name}.safetensors.index{variant}.json",
                folder / f"{name}{variant}.safetensors.index.json",
            ):
                if index.is_file():
                    return [folder / part for part in sorted(set(_index_parts(index)))]
    pickles = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLES) if folder.is_dir() else []
    if pickles:
        raise UserError(
            f"{folder / pickles[0]} is a pickle, which could run code and is not read; convert it to safetensors first."
        )
    raise UserError(f"{folder} holds no safetensors weights; expected {' or '.join(f'{n}.safetensors' for n in _NAMES)} in it.")


def _index_parts(index: Path) -> Iterable[str]:
    try:
        parts = list(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{index} is not a safetensors index (a JSON object with weight_map); fetch the folder again."
        ) from error
    if any(not isinstance(part, str) or "/" in part or "\\" in part for part in parts):
        raise UserError(f"{index} names files outside its folder; fetch the folder again.")
    return parts


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file, or of a model folder, by name, in the file's own dtypes.

    Raises:
      UserError: the file is missing, a pickle, cut short or not safetensors.
    """
    location = Path(path)
    files = find_weights(location) if location.is_dir() or not location.exists() else [location]
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        if file.suffix in PICKLES:
            raise UserError(f"{file} is a pickle, which could run code and is not read; convert it to safetensors first.")
        tensors.update(_read_file(file))
    return tensors


def _read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """Returns the size and the content of a safetensors file's header, which the library checks."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            pass
        with open(file, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            return size, json.loads(stream.read(size))
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing; fetch the folder again.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is cut short or not a safetensors file ({error}); fetch it again.") from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """Returns the free text that a safetensors file carries beside its tensors, by key.

    Raises:
      UserError: the file is missing, cut short or not safetensors.
    """
    return dict(_read_header(Path(path))[1].get("__metadata__") or {})


def _read_file(file: Path) -> dict[str, np.ndarray]:
    """Maps a safetensors file into memory; NumPy reads it (bfloat16 too)."""
    size, header = _read_header(file)
    header.pop("__metadata__", None)
    content = np.memmap(file, np.uint8, "r", offset=8 + size) if header else np.zeros(0, np.uint8)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise UserError(f"{file}: tensor {name} has dtype {entry['dtype']}; expected one of {', '.join(_DTYPES)}.")
        begin, end = entry["data_offsets"]
        tensors[name] = content[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def _dotted(path: Sequence[Any]) -> str:
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


def _parameters(model: nnx.Module) -> tuple[Any, dict[tuple[Any, ...], Any]]:
    graph, state = nnx.split(model)
    return graph, dict(nnx.to_flat_state(state))


def assign(
    model: Model,
    tensors: Mapping[str, np.ndarray],
    rules: Sequence[Rule],
    where: str,
    *,
    dtype: Any = None,
    put: Callable[..., Any] | None = None,
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
    filled: dict[tuple[Any, ...], Any] = {}
    waiting: dict[tuple[Any, ...], np.ndarray] = {}
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

        def read(index: Any, array: np.ndarray = array, target: Any = target, name: str = spell(source)) -> np.ndarray:
            part = array[index]
            if not np.isfinite(part.astype(np.float32, copy=False)).all():
                raise UserError(f"{where}: tensor {name} holds NaN or infinity; the file is damaged, fetch it again.")
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
    return nnx.merge(graph, nnx.from_flat_state({path: parameters[path].replace(value) for path, value in filled.items()}))


def _placed(waiting: dict[tuple[Any, ...], np.ndarray]) -> dict[tuple[Any, ...], jax.Array]:
    """Moves arrays to the default device and empties `waiting`: one call for many small ones, and no program for any shape."""
    placed = dict(zip(waiting, jax.device_put(list(waiting.values())), strict=True))
    waiting.clear()
    return placed


def _forget(array: np.ndarray) -> None:
    """Takes the pages of a memory-mapped file out of this process's memory; they are read again if wanted."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _source_shape(shape: tuple[int, ...], transform: str) -> list[int]:
    if transform in _INVERSE:
        return [shape[axis] for axis in _INVERSE[transform]]
    return list(shape)


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


def save_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file, whole or not at all, with the metadata that transformers and diffusers look for."""
    from safetensors.numpy import save

    from bridgejax.identity import write_atomic

    write_atomic(path, save(dict(tensors), metadata={"format": "pt"}))


_CONVS = r"(?:.+\.)?(?:conv\w*|quant_conv|post_quant_conv|proj_in|proj_out)"
_POOL_TOKEN = Rule(r"(.+\.positional_embedding)", r"\1")
UNET_RULES = torch_rules(_POOL_TOKEN, conv=_CONVS)
UNET_LINEAR_RULES = torch_rules(_POOL_TOKEN, conv=r"(?:.+\.)?conv\w*")
VAE_RULES = torch_rules(
    Rule(r"(.*attentions\.\d+)\.attention\.(.+)\.kernel", r"\1.\2.weight", "linear"),
    Rule(r"(.*attentions\.\d+)\.attention\.(.+)\.bias", r"\1.\2.bias"),
    conv=_CONVS,
)
CLIP_TEXT_RULES = torch_rules()

_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def modern_vae_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns VAE tensors under today's names: attention used to be query, key, value, proj_attn (some as 1×1 convolutions)."""
    renamed = {}
    for name, array in tensors.items():
        match = re.fullmatch(r"(.*attentions\.\d+)\.(query|key|value|proj_attn|to_q|to_k|to_v|to_out\.0)\.(weight|bias)", name)
        if match:
            block, layer, kind = match.groups()
            name = f"{block}.{_OLD_ATTENTION.get(layer, layer)}.{kind}"
            if array.ndim == 4 and array.shape[2:] == (1, 1):
                array = array[:, :, 0, 0]
        renamed[name] = array
    return renamed


def plain_text_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns text-encoder tensors without the `text_model.` prefix of published files."""
    return {name.removeprefix("text_model."): array for name, array in tensors.items()}
