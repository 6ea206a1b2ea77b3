"""Class names: what one may be, how it reads in a prompt, and the more specific phrases that may stand for it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from bridgejax.errors import UserError


def display_name(class_name: str) -> str:
    """Returns the class name as a person reads it: underscores become spaces, nothing else changes."""
    return class_name.replace("_", " ")


def check_class_names(class_names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names as a tuple, unchanged and in order.

    Spaces, unicode, slashes, HTML and underscores are all fine: names never become file names here.

    Raises:
      UserError: this is no list, there is no name, or a name is not text, is empty, repeats, has spaces around it or holds
        control characters (a TFDS label file has one stripped name per line).
    """
    if isinstance(class_names, str) or not isinstance(class_names, Iterable):
        raise UserError(f"class_names is {class_names!r}; give a list of names such as ['cat', 'dog'].")
    names = tuple(class_names)
    if not names:
        raise UserError("class_names is empty; name at least one class.")
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"class name {name!r} is not text; write it in quotes.")
        if not name.strip() or name != name.strip():
            raise UserError(f"class name {name!r} is empty or has spaces around it; remove them.")
        if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
            raise UserError(f"class name {name!r} holds a control character or a line break; remove it.")
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) != len(names) else []
    if repeated:
        raise UserError(f"class name {repeated[0]!r} is given more than once; name each class once.")
    return names


def class_phrases(class_name: str, variants: Mapping[str, Sequence[str]] | None = None) -> tuple[str, ...]:
    """Returns the phrases that may stand for a class in a prompt.

    Args:
      class_name: the class.
      variants: class name → more specific phrases ("bird" → ("robin", "owl")), used in rotation. Classes that it does
        not name, or names with no phrase, are called by their display name; names of other classes are ignored.

    Raises:
      UserError: the phrases are no list (a single text, for instance), or one is empty or not text.
    """
    phrases = (variants or {}).get(class_name, ())
    if isinstance(phrases, str) or not isinstance(phrases, Sequence):
        raise UserError(
            f"prompts.variants of class {class_name!r} is {phrases!r}; give a tuple of phrases such as ('robin', 'owl')."
        )
    for phrase in phrases:
        if not isinstance(phrase, str) or not phrase.strip():
            raise UserError(f"prompts.variants of class {class_name!r} holds {phrase!r}; give non-empty phrases.")
    return tuple(phrases) or (display_name(class_name),)
