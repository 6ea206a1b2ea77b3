"""Settings as typed fields: each states once its default, what it may hold, its unit and what it is for.

A group of settings is a frozen dataclass whose fields are made by `setting`, or are such groups in turn. From these alone come
the checks with their messages, what a text on the command line means, the reference page and the JSON Schema.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from bridgejax.errors import UserError, choices, either

T = TypeVar("T")
_METADATA = "bridgejax"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is stated of a field besides its type and default."""

    help: str  # what it is for, one sentence
    unit: str = ""  # of a number
    options: tuple[str, ...] = ()  # the texts that it may be; none means any
    # at_least, above, at_most, below: bounds of a number, or of each number of a list
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    multiple_of: int | None = None  # what a whole number is a multiple of
    decides: bool = True  # whether it decides results; a workdir goes on under another value of one that does not
    form: str = ""  # what it should be, in words, where type and bounds do not say enough
    # Called with (where, value) after type and bounds; raises UserError.
    check: Callable[[str, typing.Any], object] | None = None

    @property
    def bounds(self) -> str:
        """The bounds of a number and its unit, in words with a space before; "" if there are none."""
        parts = [f"{word} {bound:g}" for word, bound in self._bounds if bound is not None]
        if self.multiple_of:
            parts.append(f"a multiple of {self.multiple_of}")
        words = " " + " and ".join(parts).replace("at least", "of at least", 1) if parts else ""
        return f"{words} ({self.unit})" if self.unit else words

    @property
    def _bounds(self) -> tuple[tuple[str, float | None], ...]:
        return ("at least", self.at_least), ("above", self.above), ("at most", self.at_most), ("below", self.below)

    def holds(self, number: float) -> bool:
        """Tells whether a number is within the bounds."""
        return (
            math.isfinite(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
            and (self.multiple_of is None or number % self.multiple_of == 0)
        )


def setting(
    default: T,
    help: str,
    *,
    unit: str = "",
    options: tuple[str, ...] = (),
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    multiple_of: int | None = None,
    decides: bool = True,
    form: str = "",
    check: Callable[[str, typing.Any], object] | None = None,
) -> T:
    """Returns a dataclass field; the arguments are those of `Setting`. A default that is a dict is copied."""
    spec = Setting(help, unit, options, at_least, above, at_most, below, multiple_of, decides, form, check)
    metadata = {_METADATA: spec}
    if isinstance(default, dict):
        return typing.cast(T, dataclasses.field(default_factory=lambda: dict(default), metadata=metadata))
    return dataclasses.field(default=default, metadata=metadata)


def redefault(kind: type, name: str, default: T) -> T:
    """Returns the field `name` of another dataclass of settings with a default of its own."""
    (field,) = [field for field in dataclasses.fields(kind) if field.name == name]
    return dataclasses.field(default=default, metadata=field.metadata)


@dataclasses.dataclass(frozen=True)
class Key:
    """A setting with its place."""

    name: str  # dotted, as on the command line: "generator.steps"
    hint: object  # its type
    default: object  # its value where none is stated
    spec: Setting  # what is stated of it

    @property
    def is_open(self) -> bool:
        """Whether it holds entries that the user names."""
        return typing.get_origin(self.hint) is Mapping

    def entry(self, name: str) -> Key:
        """Returns the entry `name` of a key that is open."""
        return Key(f"{self.name}.{name}", typing.get_args(self.hint)[1], None, dataclasses.replace(self.spec, check=None))

    @property
    def expected(self) -> str:
        """What its value should be, in words."""
        return self.spec.form or _in_words(self.hint, self.spec)

    def checked(self, value: object, where: str = "") -> typing.Any:
        """Returns a value as the key's type: lists as tuples, whole numbers as floats where a float is meant.

        Args:
          value: as a person or a JSON file gives it.
          where: the name for messages; "" is the key's own.

        Raises:
          UserError: it is of another type, out of bounds or none of the options.
        """
        where = where or self.name
        entries = value.to_dict() if hasattr(value, "to_dict") else value
        try:
            if self.is_open and isinstance(entries, Mapping):
                converted: object = {name: self.entry(name).checked(item, f"{where}.{name}") for name, item in entries.items()}
            else:
                converted = _converted(value, self.hint, self.spec)
        except _Misfit:
            if self.spec.options and set(_members(self.hint)) <= {str, type(None)}:
                none = (None,) if type(None) in _members(self.hint) else ()
                raise UserError(f"{where} is {value!r}; {choices(value, (*self.spec.options, *none))}") from None
            raise UserError(f"{where} is {value!r}; it should be {self.expected}.") from None
        if self.spec.check is not None and converted is not None:
            self.spec.check(where, converted)
        return converted

    def read(self, text: str) -> object:
        """Returns what a text on the command line means for this key, not yet checked: a Python literal, else the text itself.

        A list may also be given as its entries, separated by commas.
        """
        literal = _literal(text)
        candidates = [literal]
        if literal is not None:
            candidates.append(text)
        if isinstance(literal, str) or (literal is not None and self.hint == tuple[str, ...]):
            candidates.append(tuple(part.strip() for part in text.split(",") if part.strip()))
        for candidate in (*candidates, (literal,)):
            try:
                _converted(candidate, self.hint, None)
            except _Misfit:
                continue
            return candidate
        return literal

    @property
    def schema(self) -> dict[str, object]:
        """Its JSON Schema."""
        unit = {"x-unit": self.spec.unit} if self.spec.unit else {}
        return {"description": self.spec.help, "default": plain(self.default), **unit, **_schema(self.hint, self.spec)}


@functools.cache
def keys_of(kind: type) -> Mapping[str, Key]:
    """Returns the settings of a dataclass by dotted name, those of its groups among them, in their order."""
    return {key.name: key for key in _keys(kind, "")}


def _keys(kind: type, prefix: str) -> Iterator[Key]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _keys(hint, f"{prefix}{field.name}.")
        else:
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            yield Key(f"{prefix}{field.name}", hint, default, field.metadata[_METADATA])


@functools.cache
def groups_of(kind: type) -> Mapping[str, type]:
    """Returns the groups of a dataclass of settings, by name; what a group is for is its docstring."""
    hints = typing.get_type_hints(kind).items()
    return {name: hint for name, hint in hints if isinstance(hint, type) and dataclasses.is_dataclass(hint)}


def build(kind: Callable[..., T], values: Mapping[str, object], prefix: str = "") -> T:
    """Returns a dataclass of settings from checked values by dotted name, of which its own begin with `prefix`."""
    hints, arguments = typing.get_type_hints(kind), {}
    for name, hint in hints.items():
        nested = dataclasses.is_dataclass(hint)
        arguments[name] = build(hint, values, f"{prefix}{name}.") if nested else values[f"{prefix}{name}"]
    return kind(**arguments)


def plain(value: object) -> object:
    """Returns a value as JSON has it: tuples as lists."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


class _Misfit(Exception):
    """A value is not of a type."""


def _literal(text: str) -> object:
    lowered = text.strip().lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _members(hint: object) -> tuple[object, ...]:
    """Returns the types of a union, `(hint,)` for another type."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _converted(value: object, hint: object, spec: Setting | None) -> object:
    """Returns `value` as `hint`; without `spec` no bound is looked at.

    Raises:
      _Misfit: it is something else.
    """
    members = _members(hint)
    if len(members) > 1:
        for member in members:
            try:
                return _converted(value, member, spec)
            except _Misfit:
                continue
        raise _Misfit
    if hint is object or (hint is type(None) and value is None):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        if spec is not None and spec.options and value not in spec.options:
            raise _Misfit
        return value
    if hint in (int, float) and isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool):
        if spec is not None and not spec.holds(value):
            raise _Misfit
        return value if hint is int else float(value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, tuple | list):
        if arguments[-1] is Ellipsis:
            return tuple(_converted(item, arguments[0], spec) for item in value)
        if len(arguments) == len(value):
            return tuple(_converted(item, each, spec) for item, each in zip(value, arguments, strict=True))
    if origin is Mapping and isinstance(value, Mapping):  # its entries are checked one by one
        return dict(value)
    raise _Misfit


def _alternatives(hint: object, spec: Setting, plural: bool) -> list[str]:
    if len(members := _members(hint)) > 1:
        return [words for member in members for words in _alternatives(member, spec, plural)]
    return list(map(repr, spec.options)) if hint is str and spec.options else [_one_in_words(hint, spec, plural)]


def _in_words(hint: object, spec: Setting, plural: bool = False) -> str:
    return either(_alternatives(hint, spec, plural))


def _one_in_words(hint: object, spec: Setting, plural: bool) -> str:
    if hint is str:
        return "texts" if plural else "a text"
    if hint is type(None):
        return "None"
    if hint is bool:
        return "True or False"
    if hint in (int, float):
        kind = "whole number" if hint is int else "finite number"
        return f"{kind}s{spec.bounds}" if plural else f"a {kind}{spec.bounds}"
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and arguments[-1] is not Ellipsis:
        return f"({', '.join(_in_words(each, spec) for each in arguments)})"
    if arguments:
        kind = "list" if typing.get_origin(hint) is tuple else "dict"
        entries = _in_words(arguments[0 if kind == "list" else 1], spec, plural=True)
        return f"{kind}s of {entries}" if plural else f"a {kind} of {entries}"
    return "values" if plural else "a value"


def _schema(hint: object, spec: Setting) -> dict[str, object]:
    members = _members(hint)
    if len(members) > 1:
        return {"anyOf": [_schema(member, spec) for member in members]}
    simple = {type(None): "null", bool: "boolean", str: "string", int: "integer", float: "number"}
    if isinstance(hint, type) and hint in simple:
        found: dict[str, object] = {"type": simple[hint]}
        if hint is str and spec.options:
            found["enum"] = list(spec.options)
        if hint in (int, float):
            bounds = {
                "minimum": spec.at_least,
                "exclusiveMinimum": spec.above,
                "maximum": spec.at_most,
                "exclusiveMaximum": spec.below,
                "multipleOf": spec.multiple_of,
            }
            found |= {name: bound for name, bound in bounds.items() if bound is not None}
        return found
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        if arguments[-1] is Ellipsis:
            return {"type": "array", "items": _schema(arguments[0], spec)}
        size = len(arguments)
        return {"type": "array", "prefixItems": [_schema(each, spec) for each in arguments], "minItems": size, "maxItems": size}
    if arguments:
        return {"type": "object", "additionalProperties": _schema(arguments[1], spec)}
    return {}
