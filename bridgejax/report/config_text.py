"""The config of a workdir as a config file, with which to run its study again."""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Mapping
from typing import Any

from bridgejax.files import canonical_json

ConfigJson = Mapping[str, Any]  # what config.json holds


def config_file(config: ConfigJson) -> str:
    """Returns the text of a config file that gives `config`: the defaults, and what differs from them."""
    lines = [f"    {target} = {_literal(value)}" for target, value in _changes(config)]
    return "\n".join(
        [
            "from bridgejax.config import default_config",
            "",
            "",
            "def get_config(arg=None):",
            "    config = default_config()",
            *lines,
            "    return config",
            "",
        ]
    )


def _changes(config: ConfigJson) -> Iterator[tuple[str, object]]:
    try:
        from bridgejax.config import default_config, to_plain

        default = to_plain(default_config())
    except ImportError:  # without ml_collections every key is listed
        default = {}
    yield from _differing("config", config, default)


def _differing(target: str, config: ConfigJson, default: ConfigJson) -> Iterator[tuple[str, object]]:
    for key, value in sorted(config.items()):
        known = default.get(key)
        plain = key.isidentifier() and not keyword.iskeyword(key)
        name = f"{target}.{key}" if plain else f"{target}[{key!r}]"
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            yield from _differing(name, value, known)
        elif canonical_json(value) != canonical_json(known):
            yield name, value


def _literal(value: object) -> str:
    """The Python text of a JSON value; lists become tuples, as configs have them."""
    if isinstance(value, list):
        inner = ", ".join(map(_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_literal(item)}" for key, item in value.items()) + "}"
    return repr(value)
