"""Further synthetic sets of a config: what each changes of the config's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from bridgejax.config.names import check_file_name
from bridgejax.config.sections import GeneratorSettings, InversionSettings, PromptSettings, SyntheticSettings
from bridgejax.errors import UserError, choices
from bridgejax.fields import keys_of


@dataclasses.dataclass(frozen=True)
class _SetGroups:
    prompts: PromptSettings = dataclasses.field(default_factory=PromptSettings)
    generator: GeneratorSettings = dataclasses.field(default_factory=GeneratorSettings)
    inversion: InversionSettings = dataclasses.field(default_factory=InversionSettings)
    synthetic: SyntheticSettings = dataclasses.field(default_factory=SyntheticSettings)


# What a set may change: all that makes images but their count.
SET_KEYS = {name: key for name, key in keys_of(_SetGroups).items() if name != "synthetic.per_class"}


def set_changes(sets: Mapping[str, Mapping[str, object]], name: str) -> dict[str, object]:
    """Returns what one of `synthetic_sets`, as plain data, changes, checked: dotted key → value as stated.

    Raises:
      UserError: there is no such set, its name cannot be that of a folder, or it changes a key that it may not or that does not
        exist.
    """
    if name not in sets:
        raise UserError(f"{name!r} is not in synthetic_sets; {choices(name, sets)}")
    check_file_name("synthetic set", name)
    changes: dict[str, object] = {}
    for dotted, value in _leaves(sets[name], ""):
        where = f"synthetic_sets.{name}.{dotted}"
        if dotted not in SET_KEYS:
            raise UserError(f"{where} is not a key that a synthetic set may change; {choices(dotted, SET_KEYS)}")
        SET_KEYS[dotted].checked(value, where)
        changes[dotted] = value
    return changes


def changed_value(own: object, stated: object) -> object:
    """Returns the value of a key in a set: what the set states, over the config's own entries where there are such."""
    return {**own, **stated} if isinstance(own, Mapping) and isinstance(stated, Mapping) else stated


def _leaves(values: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, Mapping) and dotted not in SET_KEYS:
            yield from _leaves(value, f"{dotted}.")
        else:
            yield dotted, value
