"""Low-rank changes of weights (LoRA, Hu et al. 2021, arXiv:2106.09685), merged when a generator is loaded.

A layer's weight W becomes W + scale · (alpha / rank) · up · down. Three ways of naming the tensors are read:

- diffusers and PEFT: `unet.….to_q.lora_A.weight` / `lora_B`, `….lora.down.weight` / `up`, `….lora_linear_layer.down.weight`,
  and the attention processors of old, `….attn1.processor.to_q_lora.down.weight`. Alpha is the rank, unless the file's
  metadata (`lora_adapter_metadata`) says otherwise: `lora_alpha`, `alpha_pattern`, `use_rslora` with PEFT's meaning;
- kohya: `lora_unet_…`, `lora_te_…`, `lora_te1_…`, `lora_te2_…` with `.lora_down.weight`, `.lora_up.weight`, `.alpha`;
- kohya on SDXL: the same with the blocks of the original layout (`lora_unet_input_blocks_4_1_…`).

Every tensor of a file must find its layer: a file for another base is refused, not half used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from bridgejax.errors import UserError
from bridgejax.files import JSONObject, expanded
from bridgejax.models.original_layout import unet_table_of_config
from bridgejax.models.safetensors_files import read_metadata, read_tensors

# Names inside a file after the layer's own name → which of the two matrices.
_ENDINGS = re.compile(
    r"(?P<layer>.+?)\.(?:lora_(?P<peft>[AB])(?:\.default)?|lora_(?P<kohya>down|up)|lora\.(?P<plain>down|up)"
    r"|lora_linear_layer\.(?P<linear>down|up))\.weight"
)
_PROCESSOR = re.compile(r"(?P<layer>.+?)\.(?:processor\.)?to_(?P<what>q|k|v|out)_lora\.(?P<side>down|up)\.weight")
_TEXT_PROCESSOR = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
_KOHYA_PREFIX = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
_OTHER_KINDS = (
    (r"hada_w|hada_t", "a LoHa"),
    (r"lokr_w|lokr_t", "a LoKr"),
    (r"dora_scale|lora_magnitude_vector", "a DoRA"),
    (r"lora_mid", "a LoCon with a core tensor"),
    (r"\.diff(_b)?$", "a difference of full weights"),
    (r"lora_(B|up)\.bias$", "a LoRA with biases"),
    (r"oft_|boft_", "an OFT"),
    (r"^(base_model\.model\.)", "a bare PEFT adapter, which does not say what it changes"),
)
_METADATA = "lora_adapter_metadata"


LoraFile: TypeAlias = str | Path | tuple[str | Path, float]  # a file, with the scale of its changes if not 1
LoraFiles: TypeAlias = Mapping[str | Path, float] | Sequence[LoraFile]


class Delta(NamedTuple):
    """One low-rank change of one weight, in PyTorch's layout."""

    down: np.ndarray  # [rank, in] or [rank, in, h, w]
    up: np.ndarray  # [out, rank] or [out, rank, 1, 1]
    factor: float  # scale · alpha / rank

    def matrix(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the change as float32 of the weight's `shape`."""
        rank = self.down.shape[0]
        product = self.up.astype(np.float32).reshape(-1, rank) @ self.down.astype(np.float32).reshape(rank, -1)
        return np.float32(self.factor) * product.reshape(shape)


class Merged(Mapping[str, np.ndarray]):
    """Tensors with changes added when they are asked for, so that one changed weight at a time is in memory."""

    def __init__(self, tensors: Mapping[str, np.ndarray], deltas: Mapping[str, Sequence[Delta]]):
        self._tensors = tensors
        self._deltas = deltas

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._tensors[name]
        deltas = self._deltas.get(name, ())
        if not deltas:
            return array
        total = array.astype(np.float32)
        for delta in deltas:
            total = total + delta.matrix(array.shape)
        return total

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def lora_list(loras: LoraFiles) -> list[tuple[Path, float]]:
    """Returns (path, scale) pairs of what a caller gave: {path: scale}, or a list of pairs or of paths (scale 1).

    Raises:
      UserError: it is something else, or a scale is not a finite number.
    """
    if isinstance(loras, (str, Path)):
        loras = [loras]
    pairs = list(loras.items()) if isinstance(loras, Mapping) else list(loras)
    result = []
    for pair in pairs:
        path, scale = (pair, 1.0) if isinstance(pair, (str, Path)) else _pair(pair)
        if not isinstance(path, (str, Path)):
            raise UserError(f"loras holds {pair!r}; give (path, scale) pairs or {{path: scale}}.")
        if isinstance(scale, bool) or not isinstance(scale, (int, float, np.number)) or not math.isfinite(scale):
            raise UserError(f"loras: the scale of {path} is {scale!r}; it must be a finite number.")
        result.append((expanded(path), float(scale)))
    return result


def _pair(value: object) -> tuple[object, object]:
    return (value[0], value[1]) if isinstance(value, (tuple, list)) and len(value) == 2 else (None, None)


def weights_file(path: Path, what: str, names: Sequence[str]) -> Path:
    """Returns the safetensors file that a path means: itself, or the one of a usual name in a folder.

    Raises:
      UserError: there is none.
    """
    if path.is_dir():
        file = next((path / name for name in names if (path / name).is_file()), None)
        if file is None:
            raise UserError(f"{path} holds no {what}; expected {' or '.join(names)} in it, or give the file.")
        return file
    if not path.is_file():
        raise UserError(f"{path} is missing; give the safetensors file of a {what}.")
    return path


def read_lora(
    path: Path, scale: float, tensors: Mapping[str, Mapping[str, np.ndarray]], unet_config: JSONObject
) -> dict[str, dict[str, Delta]]:
    """Reads a LoRA file.

    Args:
      path: a safetensors file, or a folder with `pytorch_lora_weights.safetensors`.
      scale: of the whole change; 0 leaves the generator as it is, negative ones subtract.
      tensors: the generator's: part → name (text encoders without `text_model.`) → array.
      unet_config: the UNet's `config.json`.

    Returns:
      Part → name of the weight → change.

    Raises:
      UserError: the file is missing, damaged, of another kind, or for another base; tensor and reason are named.
    """
    file = weights_file(path, "LoRA", ("pytorch_lora_weights.safetensors",))
    content = read_tensors(file)
    if not content:
        raise UserError(f"{file} holds no tensors, so it is not a LoRA; get it again.")
    for name, array in content.items():
        for pattern, kind in _OTHER_KINDS:
            if re.search(pattern, name):
                raise UserError(f"{file} is {kind} (tensor {name}), which is not supported; only plain LoRA files are.")
        if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
            if name.endswith(".alpha"):
                continue
            raise UserError(f"{file}: tensor {name} has dtype {array.dtype}; a LoRA must be float32, float16 or bfloat16.")
        if not np.isfinite(array.astype(np.float32)).all():
            raise UserError(f"{file}: tensor {name} holds NaN or infinity; the file is damaged, get it again.")
    settings = _settings(file)
    layers = _Layers(tensors, unet_config)

    halves: dict[tuple[str, str], dict[str, str]] = {}
    alphas: dict[tuple[str, str], float] = {}
    for name, array in content.items():
        if name.endswith(".alpha"):
            place, half = layers.find(name.removesuffix(".alpha")), None
        else:
            place, half = layers.place(name)
        if place is None:
            raise UserError(
                f"{file}: tensor {name} has no place in this generator, so it is a LoRA for another base; "
                "load the generator that it was trained on."
            )
        if half is None:
            if array.size != 1:
                raise UserError(f"{file}: tensor {name} has shape {list(array.shape)}; an alpha is one number.")
            alphas[place] = float(array.reshape(()))
        elif half in halves.setdefault(place, {}):
            raise UserError(f"{file}: tensors {halves[place][half]} and {name} are the same half of one layer; get it again.")
        else:
            halves[place][half] = name
    for place in alphas:
        if place not in halves:
            raise UserError(f"{file}: {place[0]} layer {place[1]} has an alpha but no weights; the file is not complete.")

    result: dict[str, dict[str, Delta]] = {}
    for (part, weight), names in halves.items():
        if missing := {"down", "up"} - set(names):
            present = next(iter(names.values()))
            raise UserError(f"{file}: tensor {present} lacks its other half ({missing.pop()}); the file is not complete.")
        down, up = content[names["down"]], content[names["up"]]
        shape = tensors[part][weight].shape
        _check_shapes(file, names, down, up, shape)
        factor = _factor(settings.get(part), weight.removesuffix(".weight"), down.shape[0], alphas.get((part, weight)))
        result.setdefault(part, {})[weight] = Delta(down, up, scale * factor)
    return result


def _check_shapes(file: Path, names: Mapping[str, str], down: np.ndarray, up: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuses halves whose product is no change of a weight of `shape`."""
    kernel = shape[2:]
    rank = down.shape[0] if down.ndim else 0
    fits_down = down.ndim in (2, 4) and rank > 0 and (*down.shape[1:], 1, 1)[:3] == (shape[1], *(kernel or (1, 1)))
    fits_up = up.ndim in (2, 4) and up.shape[:2] == (shape[0], rank) and set(up.shape[2:]) <= {1}
    if not fits_down:
        expected = [f"rank, {shape[1]}", *map(str, kernel)]
        raise UserError(
            f"{file}: tensor {names['down']} has shape {list(down.shape)}, but its layer in this generator asks for "
            f"[{', '.join(expected)}], so it is a LoRA for another base; load the generator that it was trained on."
        )
    if not fits_up:
        raise UserError(
            f"{file}: tensor {names['up']} has shape {list(up.shape)}, but its layer in this generator asks for "
            f"[{shape[0]}, {rank}], so it is a LoRA for another base; load the generator that it was trained on."
        )


class _Layers:
    """The layers of a generator that a LoRA may change, under the names that files give them."""

    def __init__(self, tensors: Mapping[str, Mapping[str, np.ndarray]], unet_config: JSONObject):
        self._weights: dict[str, set[str]] = {}
        self._flat: dict[str, tuple[str, str]] = {}
        table = unet_table_of_config(unet_config)
        parts = [part for part in ("unet", "text_encoder", "text_encoder_2") if part in tensors]
        for part in parts:
            weights = {name for name, array in tensors[part].items() if name.endswith(".weight") and array.ndim in (2, 4)}
            self._weights[part] = {name for name in weights if "embedding." not in name or part == "unet"}
        for prefix, part in _KOHYA_PREFIX.items():
            for weight in self._weights.get(part, ()):
                layer = weight.removesuffix(".weight")
                spellings = [layer]
                if part == "unet":
                    spellings += [original] if (original := table.to_original(layer)) else []
                elif not layer.startswith("text_projection"):
                    spellings = [f"text_model.{layer}"]
                for spelling in spellings:
                    self._flat[prefix + spelling.replace(".", "_")] = (part, weight)

    def place(self, name: str) -> tuple[tuple[str, str] | None, str]:
        """Returns (part, weight), or None, of a tensor of the file, and which half it is."""
        if match := _PROCESSOR.fullmatch(name):
            layer, what = match["layer"], match["what"]
            text = layer.startswith("text_encoder")
            inner = _TEXT_PROCESSOR[what] if text else {"out": "to_out.0"}.get(what, f"to_{what}")
            return self.find(f"{layer}.{inner}"), match["side"]
        if match := _ENDINGS.fullmatch(name):
            side = match["kohya"] or match["plain"] or match["linear"] or {"A": "down", "B": "up"}[match["peft"]]
            return self.find(match["layer"]), side
        return None, ""

    def find(self, layer: str) -> tuple[str, str] | None:
        """Returns (part, weight) of a layer's name in the file, or None."""
        if layer in self._flat:
            return self._flat[layer]
        part, _, inner = layer.partition(".")
        if part not in ("unet", "text_encoder", "text_encoder_2"):
            part, inner = "unet", layer  # attention processors of old were saved without the part
        inner = inner.replace(".processor.", ".")
        if part != "unet":
            inner = inner.removeprefix("text_model.")
        weight = f"{inner}.weight"
        return (part, weight) if weight in self._weights.get(part, ()) else None


def _settings(file: Path) -> dict[str, JSONObject]:
    """Returns the PEFT settings in a file's metadata, by part."""
    text = read_metadata(file).get(_METADATA)
    if not text:
        return {}
    try:
        values = json.loads(text)
        settings: dict[str, JSONObject] = {}
        for key, value in values.items():
            part, _, name = key.partition(".")
            settings.setdefault(part, {})[name] = value
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: its metadata {_METADATA} is not a JSON object; save the LoRA again.") from error
    for part, values in settings.items():
        if values.get("use_dora"):
            raise UserError(f"{file}: its metadata asks for DoRA in {part}, which is not supported; only plain LoRA files are.")
    return settings


def _factor(settings: JSONObject | None, layer: str, rank: int, alpha: float | None) -> float:
    """Returns alpha / rank by PEFT's rules (`LoraConfig`) or kohya's; 1 if the file says nothing."""
    if alpha is not None or not settings:
        return 1.0 if alpha is None else alpha / rank
    patterns = settings.get("alpha_pattern") or {}
    pattern = next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", layer)), None)
    value = float(patterns[pattern] if pattern is not None else settings.get("lora_alpha", 8))
    return value / math.sqrt(rank) if settings.get("use_rslora") else value / rank
