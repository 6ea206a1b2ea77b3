"""How prompts are worded with a learned word, by `inversion.mode`: the same texts to learn with and to generate with."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from bridgejax.identity import digest
from bridgejax.prompts import display_name

LEARNED = ("dataset", "class", "untrained")  # modes with a new word, which depends on the study's seed
_DEFAULT = "A {class} photo in the style of {token}"
_DEFAULT_BY_CLASS = "A photo of a {token}"


@dataclasses.dataclass(frozen=True)
class Word:
    """A new word.

    Attributes:
      token: as it stands in prompts.
      file: its file's name.
      label: the class whose images it is learned from; None means all.
    """

    token: str
    file: str
    label: int | None = None


@dataclasses.dataclass(frozen=True)
class Wording:
    """Prompts of a mode.

    Attributes:
      words: new words, one for the data set or one for each class, in their order; none for "word" and "none".
      templates: with `{}` where the class name goes (or, for "class", its word).
      variants: class name → what stands for it, for "class"; else empty.
    """

    words: tuple[Word, ...]
    templates: tuple[str, ...]
    variants: dict[str, tuple[str, ...]]

    def prompts(self, class_name: str) -> list[str]:
        """Returns the prompts of a class, one for each template."""
        phrase = self.variants.get(class_name, (display_name(class_name),))[0]
        return [template.replace("{}", phrase) for template in self.templates]


def make_wording(inversion: Any, class_names: Sequence[str]) -> Wording:
    """Returns the wording of the `inversion` keys of a checked config.

    Args:
      inversion: those keys; its mode is set.
      class_names: of the task.
    """
    if inversion.mode == "none":
        return Wording((), _templates(inversion.plain_prompt, "", "{}"), {})
    prompt = inversion.prompt
    if inversion.mode == "class":
        tokens = class_tokens(inversion.token, class_names)
        words = tuple(Word(token, f"{token.strip('<>')}.safetensors", label) for label, token in enumerate(tokens))
        variants: dict[str, tuple[str, ...]] = {name: (token,) for name, token in zip(class_names, tokens, strict=True)}
        return Wording(words, _templates(prompt or _DEFAULT_BY_CLASS, "{}", ""), variants)
    if inversion.mode == "word":
        return Wording((), _templates(prompt or _DEFAULT, inversion.word, "{}"), {})
    templates = _templates(prompt or _DEFAULT, inversion.token, "{}")
    return Wording((Word(inversion.token, "learned_embeds.safetensors"),), templates, {})


def class_tokens(token: str, class_names: Sequence[str]) -> list[str]:
    """Returns a word for each class, `<style-road-sign>` of `<style>`; it depends on the names, not on their order."""
    base = token.strip("<>") or "style"
    slugs = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in class_names]
    tokens = []
    for name, slug in zip(class_names, slugs, strict=True):
        # Names that read alike, or hold no such letter, are told apart by their digest.
        end = slug if slug and slugs.count(slug) == 1 else f"{slug}-{digest(name)[:6]}".strip("-")
        tokens.append(f"<{base}-{end}>")
    return tokens


def own_texts(inversion: Any) -> tuple[str, ...]:
    """Returns what the prompts of a new word say besides the word and the class."""
    return _templates(inversion.prompt or (_DEFAULT_BY_CLASS if inversion.mode == "class" else _DEFAULT), "", "")


def _templates(prompt: Any, token: str, name: str) -> tuple[str, ...]:
    texts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    return tuple(text.replace("{token}", token).replace("{class}", name) for text in texts)
