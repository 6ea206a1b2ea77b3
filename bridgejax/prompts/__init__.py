"""Class names and templates in, prompts out."""

from __future__ import annotations

from bridgejax.config import check_class_names, check_templates
from bridgejax.prompts.classes import class_phrases, display_name
from bridgejax.prompts.template_lists import TEMPLATE_LISTS, template_list
from bridgejax.prompts.templates import format_prompt, prompt_for

__all__ = [
    "TEMPLATE_LISTS",
    "check_class_names",
    "check_templates",
    "class_phrases",
    "display_name",
    "format_prompt",
    "prompt_for",
    "template_list",
]
