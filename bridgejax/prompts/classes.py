"""Class names: how one reads in a prompt, and the more specific phrases that may stand for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bridgejax.config import check_phrases, nfc


def display_name(class_name: str) -> str:
    """Returns the class name as a person reads it: in NFC, with underscores as spaces; nothing else changes."""
    return nfc(class_name).replace("_", " ")


def class_phrases(class_name: str, variants: Mapping[str, Sequence[str]] | None = None) -> tuple[str, ...]:
    """Returns the phrases that may stand for a class in a prompt.

    Args:
      class_name: the class.
      variants: class name → more specific phrases ("bird" → ("robin", "owl")), used in rotation. Classes that it does
        not name, or names with no phrase, are called by their display name; names of other classes are ignored.

    Raises:
      UserError: the phrases are no list (a single text, for instance), or one is empty or not text.
    """
    phrases = (variants or {}).get(class_name)
    if phrases is None and variants and not class_name.isascii():
        phrases = {nfc(name): phrases for name, phrases in variants.items()}.get(nfc(class_name))
    return check_phrases(class_name, phrases or ()) or (display_name(class_name),)
