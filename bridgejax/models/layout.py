"""What a published layout of a network is: names of tensors, what `config.json` says, and how both are written back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models.classifier import Classifier, Preprocessing
from bridgejax.models.config_values import require
from bridgejax.models.weights import Rule

Tensors = Mapping[str, np.ndarray]
Build = Callable[[int, nnx.Rngs], Classifier]


class Layout(NamedTuple):
    """The tensors of one published layout."""

    rules: tuple[Rule, ...]  # the weight table, in the names that `read` gives
    # From the file's tensors to those of the rules (fused tensors split, absent prefixes added, unused parts dropped).
    read: Callable[[Tensors], dict[str, np.ndarray]] = dict
    write: Callable[[Tensors], dict[str, np.ndarray]] = dict  # the inverse
    spell: Callable[[str], str] = str  # a name of the rules as the file spells it, for messages


@dataclass(frozen=True)
class Fused:
    """Dense layers of one input that a layout keeps as one tensor, rows below rows: `NAME.weight` or `NAME_weight`, and biases.

    Attributes:
      name: the last part of the fused layer's name.
      parts: of the single layers, which we call `NAME.PART.weight`, in order.
      separator: between the name and "weight" or "bias" in the file.
    """

    name: str
    parts: tuple[str, ...]
    separator: str = "."

    def split(self, tensors: Tensors) -> dict[str, np.ndarray]:
        """Returns the tensors with each fused one cut into views; rows that do not divide stay with the last."""
        out = {}
        for name, array in tensors.items():
            if match := re.fullmatch(rf"((?:.+\.)?{self.name}){re.escape(self.separator)}(weight|bias)", name):
                rows = array.shape[0] // len(self.parts) if array.ndim else 0
                for number, part in enumerate(self.parts):
                    end = None if part == self.parts[-1] else (number + 1) * rows
                    out[f"{match[1]}.{part}.{match[2]}"] = array[number * rows : end] if array.ndim else array
            else:
                out[name] = array
        return out

    def merge(self, tensors: Tensors) -> dict[str, np.ndarray]:
        """Returns the inverse of `split`."""
        out = {}
        for name, array in tensors.items():
            if match := self._single(name):
                if match[2] == self.parts[0]:
                    parts = [tensors[f"{match[1]}.{part}.{match[3]}"] for part in self.parts]
                    out[self.spell(name)] = np.concatenate(parts)
            else:
                out[name] = array
        return out

    def spell(self, name: str) -> str:
        """Returns the name of the tensor in the file that one of `split` is cut from."""
        match = self._single(name)
        return f"{match[1]}{self.separator}{match[3]}" if match else name

    def _single(self, name: str) -> re.Match[str] | None:
        return re.fullmatch(rf"((?:.+\.)?{self.name})\.({'|'.join(self.parts)})\.(weight|bias)", name)


@dataclass(frozen=True)
class ClassifierSpec:
    """A classifier, as its folder's config describes it."""

    build: Build  # makes the model, given the number of classes and rngs; called under `nnx.eval_shape`
    layout: Layout  # of its tensors
    num_classes: int | None  # outputs of the head in the file; None where the file has none
    preprocessing: Preprocessing  # what images must be
    weights: Path | None = None  # the file of the tensors; None where it has the usual name
    class_names: tuple[str, ...] = ()  # of the outputs, in order, where the file names them


# Arguments of timm's constructors that say nothing about a network's function in evaluation.
_TIMM_HARMLESS = {"num_classes", "drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate"}
_TIMM_HARMLESS |= {"patch_drop_rate", "dynamic_img_size", "strict_img_size", "weight_init", "zero_init_last", "pretrained"}


def timm_arguments(config: JSONObject, where: str, known: tuple[str, ...], fixed: Mapping[str, object]) -> JSONObject:
    """Returns the constructor's arguments that a timm config carries in `model_args`.

    Args:
      config: of the folder.
      where: its file, for messages.
      known: arguments that may take any value; only these are returned.
      fixed: arguments that may be there with one value.

    Raises:
      UserError: one is not supported; it is named.
    """
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise UserError(f"{where}: model_args must be a JSON object; get the published config.json.")
    require(arguments, f"{where}: model_args", {"in_chans": 3, **fixed})
    for key in arguments:
        if key not in known and key not in _TIMM_HARMLESS and key not in fixed and key != "in_chans":
            raise UserError(f"{where}: model_args.{key} is not supported, only {', '.join(known)}; take a model without it.")
    return {key: arguments[key] for key in known if key in arguments}
