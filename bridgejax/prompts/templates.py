"""Templates: a text with `{}` where the class goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bridgejax.config import PLACEHOLDER, check_templates
from bridgejax.prompts.classes import class_phrases, display_name


def format_prompt(template: str, class_name: str) -> str:
    """Returns the template with every `{}` replaced by the class name as a person reads it ("_" → " ").

    Other braces, percent signs and HTML stay as they are.

    Raises:
      UserError: the template lacks `{}`.
    """
    check_templates(template)
    return template.replace(PLACEHOLDER, display_name(class_name))


def prompt_for(
    class_name: str, index: int, templates: Sequence[str], variants: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Returns the prompt of image `index` of a class; it depends on nothing else.

    The phrases of the class rotate fastest, then the templates, so that every pair comes up equally often; without
    variants this is a plain rotation of the templates.
    """
    phrases = class_phrases(class_name, variants)
    turn, place = divmod(index, len(phrases))
    return templates[turn % len(templates)].replace(PLACEHOLDER, phrases[place])
