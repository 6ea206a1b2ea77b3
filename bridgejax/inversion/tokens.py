"""Learned tokens and the prompts that hold them, by `inversion.mode`: the same texts to learn with and to generate with."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from bridgejax.config import InversionSettings
from bridgejax.identity import digest
from bridgejax.prompts import display_name

_DEFAULT = "A {class} photo in the style of {token}"
_DEFAULT_BY_CLASS = "A photo of a {token}"


@dataclasses.dataclass(frozen=True)
class LearnedToken:
    """A token that is new to the vocabulary."""

    token: str  # as it stands in prompts
    file: str  # its file's name
    label: int | None = None  # the class whose images it is learned from; None means all


@dataclasses.dataclass(frozen=True)
class TokenPrompts:
    """The prompts of a mode."""

    # One for the data set or one for each class, in their order; none for the modes "word" and "none".
    tokens: tuple[LearnedToken, ...]
    templates: tuple[str, ...]  # with `{}` where the class name goes (or, for "class", its token)
    variants: dict[str, tuple[str, ...]]  # class name → what stands for it, for "class"; else empty

    def of_class(self, class_name: str) -> list[str]:
        """Returns the prompts of a class, one for each template."""
        phrase = self.variants.get(class_name, (display_name(class_name),))[0]
        return [template.replace("{}", phrase) for template in self.templates]


def token_prompts(inversion: InversionSettings, class_names: Sequence[str]) -> TokenPrompts:
    """Returns the prompts that the `inversion` keys of a checked config ask for; the mode is set."""
    if inversion.mode == "none":
        return TokenPrompts((), _templates(inversion.plain_prompt, "", "{}"), {})
    prompt = inversion.prompt
    if inversion.mode == "class":
        tokens = class_tokens(inversion.token, class_names)
        learned = tuple(LearnedToken(token, f"{token.strip('<>')}.safetensors", label) for label, token in enumerate(tokens))
        variants: dict[str, tuple[str, ...]] = {name: (token,) for name, token in zip(class_names, tokens, strict=True)}
        return TokenPrompts(learned, _templates(prompt or _DEFAULT_BY_CLASS, "{}", ""), variants)
    if inversion.mode == "word":
        return TokenPrompts((), _templates(prompt or _DEFAULT, inversion.word, "{}"), {})
    templates = _templates(prompt or _DEFAULT, inversion.token, "{}")
    return TokenPrompts((LearnedToken(inversion.token, "learned_embeds.safetensors"),), templates, {})


def class_tokens(token: str, class_names: Sequence[str]) -> list[str]:
    """Returns a token for each class, `<style-road-sign>` of `<style>`; it depends on the names, not on their order."""
    base = token.strip("<>") or "style"
    slugs = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in class_names]
    tokens = []
    for name, slug in zip(class_names, slugs, strict=True):
        # Names that read alike, or hold no such letter, are told apart by their digest.
        end = slug if slug and slugs.count(slug) == 1 else f"{slug}-{digest(name)[:6]}".strip("-")
        tokens.append(f"<{base}-{end}>")
    return tokens


def fixed_texts(inversion: InversionSettings) -> tuple[str, ...]:
    """Returns what the prompts of a new token say besides the token and the class."""
    return _templates(inversion.prompt or (_DEFAULT_BY_CLASS if inversion.mode == "class" else _DEFAULT), "", "")


def _templates(prompt: str | Sequence[str], token: str, name: str) -> tuple[str, ...]:
    texts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    return tuple(text.replace("{token}", token).replace("{class}", name) for text in texts)
