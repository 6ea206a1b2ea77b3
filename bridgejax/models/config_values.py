"""Values of published `config.json` files, checked as they are read; messages name the file and the key."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from bridgejax.errors import UserError
from bridgejax.files import JSONObject

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Config = TypeVar("Config", bound=DataclassInstance)


def positive_int(config: JSONObject, key: str, where: str, default: int | None = None) -> int:
    """Returns a positive whole number of a config.

    Raises:
      UserError: the key is missing without a default, or its value is something else.
    """
    value = config.get(key, default)
    if isinstance(value, (list, tuple)) and len(set(value)) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{where}: {key} is {value!r}; expected a positive whole number, get the published config.json.")
    return value


def positive_number(config: JSONObject, key: str, where: str, default: float) -> float:
    """Returns a positive number of a config.

    Raises:
      UserError: the value is something else.
    """
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{where}: {key} is {value!r}; expected a positive number, get the published config.json.")
    return float(value)


def require(config: JSONObject, where: str, wanted: Mapping[str, object]) -> None:
    """Checks that options which change the network, where present, have the only value that is supported.

    Raises:
      UserError: one has another; it is named.
    """
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise UserError(
                f"{where}: {key} = {config[key]!r} is not supported, only {value!r}; take a published model without it."
            )


_WORDS = {
    "int": "a positive whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "Sequence[int]": "a list of positive whole numbers",
    "Sequence[str]": "a list of strings",
    "PerBlock": "a positive whole number or a list of them",
    "None": "null",
}


def _words(annotation: str) -> str:
    return " or ".join(_WORDS.get(part.strip(), part.strip()) for part in annotation.split("|"))


def _is(value: object, kind: str, least: int) -> bool:
    """Returns whether a JSON value is of a field's kind, a key of `_WORDS`; whole numbers are at least `least`."""
    if kind == "PerBlock":
        return _is(value, "int", least) or _is(value, "Sequence[int]", least)
    if kind.startswith("Sequence["):
        return isinstance(value, (list, tuple)) and len(value) > 0 and all(_is(each, kind[9:-1], least) for each in value)
    if isinstance(value, bool) or kind == "bool":
        return isinstance(value, bool) and kind == "bool"
    if kind == "int":
        return isinstance(value, int) and value >= least
    if kind == "float":
        return isinstance(value, (int, float)) and math.isfinite(value)
    return value is None if kind == "None" else isinstance(value, str) if kind == "str" else True


def read_known(
    kind: type[Config], config: JSONObject, fixed: Mapping[str, tuple[object, ...]], ignored: Sequence[str], where: str
) -> Config:
    """Returns a network's config: the fields of `kind` with the values of `config`.

    Args:
      kind: a dataclass whose fields are the keys that are read, with the defaults of diffusers.
      config: of the published network; keys that start with "_" are passed over.
      fixed: keys of which only these values are supported.
      ignored: keys without effect on the network's arithmetic.
      where: the file, for messages.

    Raises:
      UserError: a value or a key is not supported; it is named.
    """
    known = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    values = {}
    for key, value in config.items():
        if key.startswith("_") or key in ignored:
            continue
        if key in fixed:
            if value not in fixed[key]:
                allowed = " or ".join(repr(option) for option in fixed[key])
                raise UserError(f"{where}: {key} = {value!r} is not supported; it must be {allowed}.")
        elif key in known:
            if not any(_is(value, part.strip(), 0 if key == "downsample_padding" else 1) for part in known[key].split("|")):
                raise UserError(f"{where}: {key} = {value!r} is not supported; it must be {_words(known[key])}.")
            values[key] = value
        else:
            raise UserError(f"{where}: the key {key!r} is not known, so the model might differ from the published one.")
    return kind(**values)
