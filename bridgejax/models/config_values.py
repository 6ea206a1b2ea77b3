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
    known = {field.name for field in dataclasses.fields(kind)}
    values = {}
    for key, value in config.items():
        if key.startswith("_") or key in ignored:
            continue
        if key in fixed:
            if value not in fixed[key]:
                allowed = " or ".join(repr(option) for option in fixed[key])
                raise UserError(f"{where}: {key} = {value!r} is not supported; it must be {allowed}.")
        elif key in known:
            values[key] = value
        else:
            raise UserError(f"{where}: the key {key!r} is not known, so the model might differ from the published one.")
    return kind(**values)
