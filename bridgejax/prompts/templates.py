"""Templates: a text with `{}` where the class goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bridgejax.errors import UserError
from bridgejax.prompts.classes import class_phrases, display_name

PLACEHOLDER = "{}"


def check_templates(template: str | Iterable[str]) -> tuple[str, ...]:
    """Returns the template, or the templates, as a tuple.

    Raises:
      UserError: there is none, or one is not text or lacks `{}`.
    """
    templates = (template,) if isinstance(template, str) else tuple(template)
    if not templates:
        raise UserError("prompts.template is empty; give a text with {} where the class name goes.")
    for text in templates:
        if not isinstance(text, str):
            raise UserError(f"prompts.template {text!r} is not text; give a text with {{}} where the class name goes.")
        if PLACEHOLDER not in text:
            raise UserError(f"prompts.template {text!r} has no {{}}; put {{}} where the class name goes.")
    return templates


def format_prompt(template: str, class_name: str) -> str:
    """Returns the template with every `{}` replaced by the class name as a person reads it ("_" → " ").

    Other braces, percent signs and HTML stay as they are.

    Raises:
      UserError: the template lacks `{}`.
    """
    check_templates(template)
    return template.replace(PLACEHOLDER, display_name(class_name))


def prompt_for(
    class_name: str,
    index: int,
    templates: Sequence[str],
    variants: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Returns the prompt of image `index` of a class; it depends on nothing else.

    The phrases of the class rotate fastest, then the templates, so that every pair comes up equally often; without
    variants this is a plain rotation of the templates.
    """
    phrases = class_phrases(class_name, variants)
    turn, place = divmod(index, len(phrases))
    return templates[turn % len(templates)].replace(PLACEHOLDER, phrases[place])
