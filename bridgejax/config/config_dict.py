"""The ConfigDict that config files start from, and what is made of one."""

from __future__ import annotations

import copy
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bridgejax.config.names import nfc
from bridgejax.config.settings import KEYS, Settings
from bridgejax.config.synthetic_sets import changed_value, set_changes
from bridgejax.errors import UserError, choices
from bridgejax.fields import Key, plain
from bridgejax.files import canonical_json

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def default_config() -> ConfigDict:
    """Returns the locked ConfigDict with every key and its default."""
    from ml_collections import ConfigDict

    config = ConfigDict()
    opened = []
    for name, key in KEYS.items():
        *groups, leaf = name.split(".")
        node = config
        for group in groups:
            if group not in node:
                node[group] = ConfigDict()
            node = node[group]
        node[leaf] = _initial(key)
        if key.is_open:
            opened.append(node[leaf])
    config.lock()
    for node in opened:
        node.unlock()
    return config


def _initial(key: Key) -> object:
    """Returns a key's default as a ConfigDict holds it: with its type where that is one that ConfigDict checks."""
    from ml_collections import ConfigDict, config_dict

    if key.is_open:
        return ConfigDict(copy.deepcopy(key.default))
    members = typing.get_args(key.hint) if isinstance(key.hint, types.UnionType) else (key.hint,)
    kinds = [member for member in members if member is not type(None)]
    if len(kinds) > 1:
        return config_dict.FieldReference(key.default, field_type=object)
    return config_dict.placeholder(kinds[0]) if key.default is None else key.default


def check_config(config: ConfigDict) -> None:
    """Checks all of a config that does not depend on data, weights or devices; errors as of `Settings.of`."""
    Settings.of(config)


def set_config(config: ConfigDict, name: str) -> ConfigDict:
    """Returns a copy of a config with the changes of one of its `synthetic_sets` ("" is its own); it names no further sets.

    Raises:
      UserError: there is no such set, or it changes what it may not or what does not exist; the key is named.
    """
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.synthetic_sets = type(config)()
        for key, value in (set_changes(config.synthetic_sets.to_dict(), name) if name else {}).items():
            group, _, leaf = key.rpartition(".")
            own = changed[group][leaf]
            with changed[group].ignore_type():
                changed[group][leaf] = changed_value(own.to_dict() if KEYS[key].is_open else own, value)
    return changed


def flatten(config: ConfigDict | Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields (dotted key, value) for every leaf; the stages of a recipe and the phrases of a class are leaves."""
    for key in config:
        value = config[key]
        if isinstance(value, Mapping) or hasattr(value, "to_dict"):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_plain(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as JSON-able nested dictionaries (tuples become lists)."""
    return json.loads(canonical_json(config.to_dict() if hasattr(config, "to_dict") else dict(config)))


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Returns "key: old → new", by key, for each key that decides results and differs; configs are as of `to_plain`.

    A key that `old` lacks, from before there was such a key, had today's default.
    """
    defaults = {name: plain(key.default) for name, key in KEYS.items() if not key.is_open}
    before, after = {**defaults, **dict(flatten(old))}, dict(flatten(new))
    return [
        f"{name}: {before.get(name)!r} → {after.get(name)!r}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name) and _decides(name) and nfc(repr(before.get(name))) != nfc(repr(after.get(name)))
    ]


def _decides(name: str) -> bool:
    """Tells whether a dotted key, or the open key that it is an entry of, decides results."""
    parts = name.split(".")
    heads = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((KEYS[head].spec.decides for head in heads if head in KEYS), True)


def find_node(config: ConfigDict, name: str) -> ConfigDict | None:
    """Returns the node of a config that holds a dotted key, None if there is none."""
    node = config
    for part in name.split(".")[:-1]:
        if part not in node or not hasattr(node[part], "to_dict"):
            return None
        node = node[part]
    return node


def key_of(name: str) -> Key | None:
    """Returns the key of a dotted name, or the entry of an open key that it names; None if there is neither."""
    if name in KEYS:
        return KEYS[name]
    head, _, entry = name.rpartition(".")
    return KEYS[head].entry(entry) if head in KEYS and KEYS[head].is_open else None


def set_value(config: ConfigDict, name: str, text: str) -> None:
    """Sets a key from a text on the command line.

    Raises:
      UserError: there is no such key, or the text is not a valid value.
    """
    node, key = find_node(config, name), key_of(name)
    if node is not None and key is None and name.startswith("synthetic_sets."):
        _, _, key_name = name.removeprefix("synthetic_sets.").partition(".")
        key = KEYS.get(key_name)
    if key is not None and key.is_open:
        raise UserError(f"--config.{name} holds entries; set one of them, as --config.{name}.NAME=VALUE.")
    leaf = name.rpartition(".")[2]
    if node is None or key is None:
        group = [key for key in KEYS if key.startswith(f"{name}.")]
        if group:
            raise UserError(f"--config.{name} is a group of keys; set one of {', '.join(group)}.")
        raise UserError(f"--config.{name} is not a key of the config; {choices(name, KEYS)}")
    with node.ignore_type():
        node[leaf] = key.checked(key.read(text), name)
