"""Class names and templates in, prompts out; and the sentences that stand for a class name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridgejax.config import check_class_names, check_templates
from bridgejax.prompts.classes import class_phrases, display_name
from bridgejax.prompts.template_lists import TEMPLATE_LISTS, template_list
from bridgejax.prompts.templates import format_prompt, prompt_for

if TYPE_CHECKING:
    from bridgejax.prompts.language_model import load_language_model

__all__ = [
    "TEMPLATE_LISTS",
    "check_class_names",
    "check_templates",
    "class_phrases",
    "display_name",
    "format_prompt",
    "load_language_model",
    "prompt_for",
    "template_list",
]


def __getattr__(name: str) -> object:
    """Imports the language model when it is first asked for: templates need no JAX."""
    if name != "load_language_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bridgejax.prompts.language_model import load_language_model

    return load_language_model
