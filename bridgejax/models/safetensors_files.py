"""Safetensors files and model folders: found, mapped into memory, written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from bridgejax.errors import UserError
from bridgejax.files import JSONObject, check_link, read_json_object, write_atomic

_NAMES = ("model", "diffusion_pytorch_model")
_VARIANTS = ("", ".fp32", ".fp16", ".bf16", ".non_ema")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_DTYPES: dict[str, DTypeLike] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# What programs call the factors by which 8-bit weights have to be multiplied.
_SCALES = re.compile(r"(.*\.)?(scaled_fp8|scale_weight|weight_scale(_inv)?|scale_input|input_scale|comfy_quant)")


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
            check_link(file)
            for index in (
                folder / f"{name}.safetensors.index{variant}.json",
                folder / f"{name}{variant}.safetensors.index.json",
            ):
                if index.is_file():
                    return [folder / part for part in sorted(set(_index_parts(index)))]
                check_link(index)
    pickles = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLES) if folder.is_dir() else []
    if pickles:
        raise UserError(
            f"{folder / pickles[0]} is a pickle, which could run code and is not read; convert it to safetensors first."
        )
    raise UserError(f"{folder} holds no safetensors weights; expected {' or '.join(f'{n}.safetensors' for n in _NAMES)} in it.")


def _index_parts(index: Path) -> Iterable[str]:
    weight_map = read_json_object(index, "fetch the folder again").get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{index} is not a safetensors index (a JSON object with weight_map); fetch the folder again.")
    parts = list(weight_map.values())
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
        read = _read_file(file)
        if twice := min(read.keys() & tensors.keys(), default=None):
            raise UserError(f"{file}: tensor {twice} is in another file of the same model too; fetch the folder again.")
        tensors.update(read)
    return tensors


def _read_header(file: Path) -> tuple[int, JSONObject]:
    """Returns the size and the content of a safetensors file's header, which the library checks."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            pass
        with open(file, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            return size, json.loads(stream.read(size))
    except FileNotFoundError as error:
        check_link(file)
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
    eight_bits = any(entry["dtype"].startswith("F8") for entry in header.values())
    for name, entry in header.items():
        if eight_bits and _SCALES.fullmatch(name):
            raise UserError(
                f"{file} holds 8-bit weights with scales of their own (tensor {name}), which are not supported; "
                "use the same model in float16, or in 8 bits without scales."
            )
        if entry["dtype"] not in _DTYPES:
            raise UserError(f"{file}: tensor {name} has dtype {entry['dtype']}; expected one of {', '.join(_DTYPES)}.")
        begin, end = entry["data_offsets"]
        tensors[name] = content[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def save_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file, whole or not at all, with the metadata that transformers and diffusers look for."""
    from safetensors.numpy import save

    write_atomic(path, save(dict(tensors), metadata={"format": "pt"}))
