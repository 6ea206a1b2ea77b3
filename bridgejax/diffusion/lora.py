"""Low-rank changes of weights (LoRA, Hu et al. 2021, arXiv:2106.09685), merged when a generator is loaded.

A layer's weight W becomes W + scale · (alpha / rank) · up · down; a DoRA gives the vectors of that weight lengths of their own.
These ways of naming the tensors are read:

- diffusers and PEFT: `unet.….to_q.lora_A.weight` / `lora_B`, `….lora.down.weight` / `up`, `….lora_linear_layer.down.weight`,
  and the attention processors of old, `….attn1.processor.to_q_lora.down.weight`. Alpha is the rank, unless the file's
  metadata (`lora_adapter_metadata`) says otherwise: `lora_alpha`, `alpha_pattern`, `use_rslora` with PEFT's meaning;
- kohya: `lora_unet_…`, `lora_te_…`, `lora_te1_…`, `lora_te2_…` with `.lora_down.weight`, `.lora_up.weight`, `.alpha`;
- kohya on SDXL: the same with the blocks of the original layout (`lora_unet_input_blocks_4_1_…`);
- LyCORIS by itself: `lycoris_…` with the UNet's names;
- PEFT by itself: `base_model.model.…` with the names of one network, `adapter_config.json` beside the file;
- the program ComfyUI: `diffusion_model.…` (either layout) and `text_encoders.clip_l.transformer.…`.

Besides LoRA, LyCORIS' LoCon (with a core too), LoHa, LoKr, differences of whole weights and trained norms are read, and DoRA
over any of them. Every tensor of a file must find its layer: a file for another base is refused, not half used; so are other
adapters, by name. Words that a file bundles (`bundle_emb.…`) are read by `bridgejax.diffusion.textual_inversion`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from bridgejax.diffusion.lora_changes import (
    Change,
    Decomposed,
    Delta,
    Hadamard,
    Kronecker,
    Whole,
    dora_lengths,
    fits,
    other_change,
)
from bridgejax.errors import UserError
from bridgejax.files import JSONObject, check_link, expanded, read_json_object
from bridgejax.identity import digest, file_digest
from bridgejax.models.original_layout import unet_table_of_config
from bridgejax.models.safetensors_files import read_metadata, read_tensors

# Names inside a file after the layer's own name → which tensor of which kind of change it is.
_ENDINGS = re.compile(
    r"(?P<layer>.+?)\.(?:lora_(?P<peft>[AB])(?:\.(?P<adapter>\w+))?\.weight|lora_(?P<kohya>down|up|mid)\.weight"
    r"|lora\.(?P<plain>down|up)\.weight|lora_linear_layer\.(?P<linear>down|up)\.weight"
    r"|hada_(?P<hada>w[12]_[ab]|t[12])|lokr_(?P<lokr>w1|w2|w[12]_[ab]|t2)|(?P<whole>diff|diff_b|w_norm|b_norm)|(?P<alpha>alpha)"
    r"|(?P<lengths>dora_scale|lora_magnitude_vector(?:\.(?!weight)(?P<dora_adapter>\w+))?(?:\.weight)?))"
)
_PROCESSOR = re.compile(r"(?P<layer>.+?)\.(?:processor\.)?to_(?P<what>q|k|v|out)_lora\.(?P<side>down|up)\.weight")
_TEXT_PROCESSOR = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
_KOHYA_PREFIX = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
# Dotted prefixes that other programs write.
_DOTTED_PREFIX = {"text_encoders.clip_l.transformer.": "text_encoder", "text_encoders.clip_g.transformer.": "text_encoder_2"}
_OTHER_KINDS = (
    (r"\.on_input$|ia3_l", "an IA3"),
    (r"\.(a[12]|b[12]|bm[12])\.weight$", "a GLoRA"),
    (r"oft_|boft_|\.rescale$", "an OFT"),
    (r"lora_(B|up)\.bias$", "a LoRA with biases"),
    (r"lora_embedding_[AB]", "a LoRA of token embeddings"),
    (r"vera_lambda|randlora_|hra_u|\.lora_(E|ranknum)$", "an adapter that is no LoRA"),
)
_OTHER_BASE = "so it is a LoRA for another base; load the generator that it was trained on."
BUNDLED = "bundle_emb."  # what the names of a learned word's tensors begin with
_METADATA, _BARE, _BARE_CONFIG = "lora_adapter_metadata", "base_model.model.", "adapter_config.json"
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")  # of PEFT's ways to begin a LoRA, those that leave the base as it was


LoraFile: TypeAlias = str | Path | tuple[str | Path, float]  # a file, with the scale of its changes if not 1
LoraFiles: TypeAlias = Mapping[str | Path, float] | Sequence[LoraFile]


class Merged(Mapping[str, np.ndarray]):
    """Tensors with changes added when they are asked for, so that one changed weight at a time is in memory."""

    def __init__(self, tensors: Mapping[str, np.ndarray], deltas: Mapping[str, Sequence[Change]]):
        self._tensors = tensors
        self._deltas = deltas

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._tensors[name]
        deltas = self._deltas.get(name, ())
        if not deltas:
            return array
        total = array.astype(np.float32)
        for delta in deltas:
            total = total + delta.matrix(array)
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
    check_link(path)
    if path.is_dir():
        for name in names:
            check_link(path / name)
        file = next((path / name for name in names if (path / name).is_file()), None)
        if file is None:
            raise UserError(f"{path} holds no {what}; expected {' or '.join(names)} in it, or give the file.")
        return file
    if not path.is_file():
        raise UserError(f"{path} is missing; give the safetensors file of a {what}.")
    return path


def lora_file(path: Path) -> Path:
    """Returns the safetensors file of a LoRA: the path, or the file of diffusers' or PEFT's name in a folder."""
    return weights_file(path, "LoRA", ("pytorch_lora_weights.safetensors", "adapter_model.safetensors"))


def lora_digest(path: Path) -> str:
    """Returns the SHA-256 of a LoRA's file, and of PEFT's config beside it where that says the alpha."""
    file = lora_file(path)
    bare = any(name.startswith(_BARE) for name in read_tensors(file))
    return digest([file_digest(file), file_digest(file.with_name(_BARE_CONFIG))]) if bare else file_digest(file)


def read_lora(
    path: Path, scale: float, tensors: Mapping[str, Mapping[str, np.ndarray]], unet_config: JSONObject
) -> dict[str, dict[str, list[Change]]]:
    """Reads a LoRA file: part → name of the weight → changes.

    Args:
      path: a safetensors file, or a folder with `pytorch_lora_weights.safetensors` or `adapter_model.safetensors`.
      scale: of the whole change; 0 leaves the generator as it is (but for a DoRA's lengths), negative ones subtract.
      tensors: the generator's: part → name (text encoders without `text_model.`) → array.
      unet_config: the UNet's `config.json`.

    Raises:
      UserError: the file is missing, damaged, of another kind, or for another base; tensor and reason are named.
    """
    file = lora_file(path)
    content = read_tensors(file)
    if not content:
        raise UserError(f"{file} holds no tensors, so it is not a LoRA; get it again.")
    for name in content:
        for pattern, kind in _OTHER_KINDS:
            if re.search(pattern, name) and not name.startswith(BUNDLED):
                raise UserError(
                    f"{file} is {kind} (tensor {name}), which is not supported; LoRA, DoRA, LoCon, LoHa, LoKr and trained "
                    "norms are."
                )
    settings, said = _settings(file, bare=any(name.startswith(_BARE) for name in content))
    layers = _Layers(tensors, unet_config, file)

    slots: dict[tuple[str, str], dict[str, str]] = {}
    adapters: dict[bool, str] = {}
    for name, array in content.items():
        if name.startswith(BUNDLED):
            continue
        form = _form(name)
        if form is None:
            raise UserError(
                f"{file}: tensor {name} has no place in a LoRA: its name is none of those that LoRA files have; "
                "if this is a generator or a learned word, give it as such."
            )
        if form.adapter != adapters.setdefault(bool(form.adapter), form.adapter):
            raise UserError(
                f"{file} holds two adapters, {adapters[True]!r} and {form.adapter!r} (tensor {name}); save each by itself."
            )
        if (place := layers.find(form.layer)) is None:
            raise UserError(f"{file}: tensor {name} has no place in this generator, {_OTHER_BASE}")
        if (other := slots.setdefault(place, {}).setdefault(form.slot, name)) != name:
            raise UserError(f"{file}: tensors {other} and {name} are the same half of one layer; get it again.")
        _check_numbers(file, name, array, form.slot)

    result: dict[str, dict[str, list[Change]]] = {}
    for (part, layer), names in slots.items():
        _check_dora(file, said, settings.get(part, {}).get("use_dora"), names)
        found = {slot: content[name] for slot, name in names.items()}
        alpha = float(found["alpha"].astype(np.float32).reshape(())) if "alpha" in found else None

        def factor(rank: int, part: str = part, layer: str = layer, alpha: float | None = alpha) -> float:
            return scale * _factor(settings.get(part), layer, rank, alpha, said)

        for weight, change in _changes(file, layer, names, found, tensors[part], scale, factor):
            result.setdefault(part, {}).setdefault(weight, []).append(change)
    return result


class _Form(NamedTuple):
    """What a tensor's name says."""

    layer: str  # as the file names it
    slot: str  # which tensor of the layer's change
    adapter: str = ""  # PEFT's name for the adapter, where it stands in the tensor's


def _form(name: str) -> _Form | None:
    if match := _PROCESSOR.fullmatch(name):
        layer, what = match["layer"], match["what"]
        text = layer.startswith("text_encoder")
        inner = _TEXT_PROCESSOR[what] if text else {"out": "to_out.0"}.get(what, f"to_{what}")
        return _Form(f"{layer}.{inner}", match["side"])
    if (match := _ENDINGS.fullmatch(name)) is None:
        return None
    if match["peft"]:
        return _Form(match["layer"], {"A": "down", "B": "up"}[match["peft"]], match["adapter"] or "")
    if match["lengths"]:
        return _Form(match["layer"], "lengths", match["dora_adapter"] or "")
    if slot := next((match[key] for key in ("kohya", "plain", "linear", "alpha") if match[key]), None):
        return _Form(match["layer"], slot)
    if match["whole"]:
        return _Form(match["layer"], "bias" if match["whole"] in ("diff_b", "b_norm") else "whole")
    return _Form(match["layer"], f"hada_{match['hada']}" if match["hada"] else f"lokr_{match['lokr']}")


def _check_numbers(file: Path, name: str, array: np.ndarray, slot: str) -> None:
    """Refuses a tensor whose dtype or numbers cannot be a LoRA's."""
    if slot == "alpha":
        if array.size != 1:
            raise UserError(f"{file}: tensor {name} has shape {list(array.shape)}; an alpha is one number.")
        if array.dtype == np.bool_:
            raise UserError(f"{file}: tensor {name} has dtype bool; an alpha is a number.")
    elif not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        raise UserError(f"{file}: tensor {name} has dtype {array.dtype}; a LoRA must be float32, float16 or bfloat16.")
    if not np.isfinite(array.astype(np.float32)).all():
        raise UserError(f"{file}: tensor {name} holds NaN or infinity; the file is damaged, get it again.")


# The tensors of each kind of change: those it must have, and those it may.
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "lora": (("down", "up"), ("mid",)),
    "hada": (("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), ("hada_t1", "hada_t2")),
    "lokr": ((), ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")),
    "whole": (("whole",), ()),
    "bias": (("bias",), ()),
}


def _changes(
    file: Path,
    layer: str,
    names: Mapping[str, str],
    found: Mapping[str, np.ndarray],
    tensors: Mapping[str, np.ndarray],
    scale: float,
    factor: Callable[[int], float],
) -> Iterator[tuple[str, Change]]:
    """Yields (name of the weight, change) of one layer.

    Args:
      file: for messages.
      layer: of the generator.
      names: slot → the file's name.
      found: slot → array.
      tensors: of the layer's part.
      scale: of the file.
      factor: rank → what the product of the matrices is multiplied by.
    """
    present = next(iter(names.values()))
    if set(found) <= {"alpha", "lengths"}:
        what = "an alpha" if "alpha" in found else "a DoRA's lengths"
        raise UserError(f"{file}: tensor {present} is {what} without weights; the file is not complete.")
    for kind, (needed, optional) in _KINDS.items():
        if not (have := set(found) & {*needed, *optional}):
            continue
        if missing := [slot for slot in needed if slot not in have]:
            named = names[next(slot for slot in (*needed, *optional) if slot in have)]
            raise UserError(f"{file}: tensor {named} lacks its other half ({missing[0]}); the file is not complete.")
        weight = f"{layer}.{'bias' if kind == 'bias' else 'weight'}"
        if weight not in tensors or (layer.startswith("embeddings.") and kind != "whole"):
            raise UserError(f"{file}: tensor {names[next(iter(have))]} has no place in this generator, {_OTHER_BASE}")
        shape = tensors[weight].shape
        if kind == "lora" and "mid" not in found:
            _check_shapes(file, names, found["down"], found["up"], shape)
            change: Delta | Hadamard | Kronecker | Whole = Delta(found["down"], found["up"], factor(found["down"].shape[0]))
        else:
            other = other_change(kind, found, scale, factor)
            if other is None or not fits(other, shape):
                listed = ", ".join(f"{names[slot]} {list(found[slot].shape)}" for slot in sorted(have))
                raise UserError(
                    f"{file}: tensors {listed} make no change of shape {list(shape)}, which their layer has here, so it "
                    "is a LoRA for another base, or not complete; load the generator that it was trained on."
                )
            change = other
        if "lengths" not in found or kind == "bias":
            yield weight, change
            continue
        lengths = dora_lengths(found["lengths"], shape, "lora_magnitude_vector" in names["lengths"])
        if lengths is None:
            raise UserError(
                f"{file}: tensor {names['lengths']} has shape {list(found['lengths'].shape)}, but its layer's weight in this "
                f"generator {list(shape)}, {_OTHER_BASE}"
            )
        yield weight, Decomposed(change, lengths)


def _check_dora(file: Path, said: str, asked: object, names: Mapping[str, str]) -> None:
    """Refuses a layer of which the settings (`said` names where they stand) and its tensors do not say the same."""
    if asked is True and "down" in names and "lengths" not in names:
        raise UserError(
            f"{said} asks for DoRA (use_dora), but tensor {names['down']} of {file} comes without a lora_magnitude_vector; the "
            "file is not complete, get it again."
        )
    if asked is False and "lengths" in names:
        raise UserError(
            f"{file} does not agree with itself: {said} says use_dora false, but it holds tensor {names['lengths']}; save the "
            "LoRA again."
        )


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
            f"[{', '.join(expected)}], {_OTHER_BASE}"
        )
    if not fits_up:
        raise UserError(
            f"{file}: tensor {names['up']} has shape {list(up.shape)}, but its layer in this generator asks for "
            f"[{shape[0]}, {rank}], {_OTHER_BASE}"
        )


class _Layers:
    """The layers of a generator that a LoRA may change, under the names that files give them."""

    def __init__(self, tensors: Mapping[str, Mapping[str, np.ndarray]], unet_config: JSONObject, file: Path):
        self._file = file
        self._layers: dict[str, set[str]] = {}
        self._named: dict[str, tuple[str, str]] = {}
        table = unet_table_of_config(unet_config)
        for part in ("unet", "text_encoder", "text_encoder_2"):
            names = tensors.get(part, {})
            self._layers[part] = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
        for layer in self._layers["unet"]:
            original = table.to_original(layer)
            for spelling in filter(None, (layer, original)):
                self._named["lora_unet_" + spelling.replace(".", "_")] = ("unet", layer)
                self._named[f"diffusion_model.{spelling}"] = ("unet", layer)
            self._named["lycoris_" + layer.replace(".", "_")] = ("unet", layer)
        for part in ("text_encoder", "text_encoder_2"):
            kohya = [prefix for prefix, other in _KOHYA_PREFIX.items() if other == part]
            dotted = next(prefix for prefix, other in _DOTTED_PREFIX.items() if other == part)
            for layer in self._layers[part]:
                # transformers 5 has no text_model between.
                for spelling in [layer] if layer.startswith("text_projection") else [f"text_model.{layer}", layer]:
                    self._named |= {prefix + spelling.replace(".", "_"): (part, layer) for prefix in kohya}
                    self._named[dotted + spelling] = (part, layer)

    def find(self, name: str) -> tuple[str, str] | None:
        """Returns (part, layer) of a layer's name in the file, or None.

        Raises:
          UserError: it may be of either text encoder.
        """
        if name in self._named:
            return self._named[name]
        if name.startswith(_BARE):
            bare = name.removeprefix(_BARE)
            found = [(part, own) for part in self._layers if (own := _own_name(part, bare)) in self._layers[part]]
            if len(found) > 1:
                raise UserError(
                    f"{self._file}: layer {name} is in both text encoders, and an adapter of PEFT does not say which it is "
                    "for; save the LoRA with diffusers' save_lora_weights."
                )
            return found[0] if found else None
        part, _, inner = name.partition(".")
        if part not in self._layers:
            part, inner = "unet", name  # attention processors of old were saved without the part
        inner = _own_name(part, inner.replace(".processor.", "."))
        return (part, inner) if inner in self._layers[part] else None


def _own_name(part: str, name: str) -> str:
    """Returns a layer's name as the generator has it: text encoders' without `text_model.`."""
    return name if part == "unet" else name.removeprefix("text_model.")


def _settings(file: Path, bare: bool) -> tuple[dict[str, JSONObject], str]:
    """Returns PEFT's settings of a file by part, and where they stand: in the metadata, or beside a bare adapter."""
    settings: dict[str, JSONObject] = {}
    if bare:
        place = file.with_name(_BARE_CONFIG)
        values = read_json_object(place, "PEFT saves it beside the adapter, and it says the alpha")
        if values.get("peft_type", "LORA") != "LORA":
            raise UserError(
                f"{place}: an adapter of kind {values['peft_type']!r} is not supported as PEFT saves it; a LORA is."
            )
        settings, said = dict.fromkeys(("unet", "text_encoder", "text_encoder_2"), values), str(place)
    else:
        said = f"{file}: its metadata {_METADATA}"
        try:
            for key, value in json.loads(read_metadata(file).get(_METADATA) or "{}").items():
                part, _, name = key.partition(".")
                settings.setdefault(part, {})[name] = value
        except (ValueError, AttributeError) as error:
            raise UserError(f"{said} is not a JSON object; save the LoRA again.") from error
    for values in settings.values():
        start = values.get("init_lora_weights")
        if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
            raise UserError(
                f"{said} says that this LoRA began by changing the base's weights (init_lora_weights {start!r}), which are not "
                "in the file; have PEFT convert it to a plain LoRA when it is saved."
            )
    return settings, said


def _factor(settings: JSONObject | None, layer: str, rank: int, alpha: float | None, said: str) -> float:
    """Returns alpha / rank by PEFT's rules (`LoraConfig`) or kohya's; 1 if the file says nothing."""
    if alpha is not None or not settings or not rank:
        return 1.0 if alpha is None or not rank else alpha / rank
    try:
        patterns = dict(settings.get("alpha_pattern") or {})
        # Adapters were saved with text_model. and PEFT's own prefix before a layer's name, or without.
        spelled = [start + middle + layer for start in ("", "base_model.model.") for middle in ("", "text_model.")]
        fits = (pattern for pattern in patterns if any(re.match(rf"(.*\.)?({pattern})$", name) for name in spelled))
        pattern = next(fits, None)
        value = float(patterns[pattern] if pattern is not None else settings.get("lora_alpha", 8))
    except (TypeError, ValueError, re.error) as error:
        raise UserError(f"{said} has an alpha or a pattern that is none ({error}); save it again.") from error
    return value / math.sqrt(rank) if settings.get("use_rslora") else value / rank
