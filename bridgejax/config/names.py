"""What the names and texts that users write may be: classes, phrases, templates, tokens, recipes and sets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from bridgejax.errors import UserError, choices

PLACEHOLDER = "{}"  # in a template, where the class goes
CLASS_SOURCES = ("file:PATH", "builtin:tux_photos", "folder:PATH", "split:FILE.json", "task:NAME", "tfds:NAME")
SENTENCE_SOURCES = {"file": "PATH", "builtin": "NAME", "t5": "FOLDER", "endpoint": "URL"}


def nfc(text: str) -> str:
    """Returns a text in Unicode's composed form: an accented letter is one code point, however a keyboard or disk made it.

    Names are compared in this form wherever they meet: class lists, folders, labels of data sets, prompts, configs.
    """
    return unicodedata.normalize("NFC", text)


def composed(names: Sequence[str], where: str) -> list[str]:
    """Returns different texts in NFC; `where` says in messages what they are the names of.

    Raises:
      UserError: two of them are the same in NFC; both are shown.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(nfc(name), name)
        if other != name:
            raise UserError(
                f"{where} holds {name!r} twice, with letters composed in two ways ({other!a} and {name!a}); rename one of them."
            )
    return [nfc(name) for name in names]


def check_class_names(class_names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names as a tuple, in NFC and in order.

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
        kinds = {unicodedata.category(character) for character in name}
        if "Cs" in kinds:
            raise UserError(
                f"class name {name!r} is not UTF-8 (archives of other systems leave such names); rename the folder."
            )
        if kinds & {"Cc", "Zl", "Zp"}:
            raise UserError(f"class name {name!r} holds a control character or a line break; remove it.")
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) != len(names) else []
    if repeated:
        raise UserError(f"class name {repeated[0]!r} is given more than once; name each class once.")
    return tuple(composed(names, "class_names"))


def check_class_source(where: str, stated: str | Sequence[str]) -> None:
    """Checks where class names come from: a list of them, a file or a task.

    Raises:
      UserError: the list is wrong, or a text names no source.
    """
    if isinstance(stated, str):
        kind, _, place = stated.partition(":")
        if not place or kind not in {form.partition(":")[0] for form in CLASS_SOURCES}:
            raise UserError(
                f"{where} is {stated!r}, neither a list of names nor a source of some; {choices(stated, CLASS_SOURCES)}"
            )
    elif stated:
        check_class_names(stated)


def check_phrases(class_name: str, phrases: Sequence[str]) -> tuple[str, ...]:
    """Returns the phrases that `prompts.variants` gives a class, as a tuple.

    Raises:
      UserError: the phrases are no list (a single text, for instance), or one is empty or not text.
    """
    if isinstance(phrases, str) or not isinstance(phrases, Sequence):
        raise UserError(
            f"prompts.variants of class {class_name!r} is {phrases!r}; give a tuple of phrases such as ('robin', 'owl')."
        )
    for phrase in phrases:
        if not isinstance(phrase, str) or not phrase.strip():
            raise UserError(f"prompts.variants of class {class_name!r} holds {phrase!r}; give non-empty phrases.")
    return tuple(phrases)


def check_templates(template: str | Iterable[str], where: str = "prompts.template") -> tuple[str, ...]:
    """Returns the template, or the templates, of the key `where` as a tuple.

    Raises:
      UserError: there is none, or one is not text or lacks `{}`.
    """
    templates = (template,) if isinstance(template, str) else tuple(template)
    if not templates:
        raise UserError(f"{where} is empty; give a text with {{}} where the class name goes.")
    for text in templates:
        if not isinstance(text, str):
            raise UserError(f"{where} {text!r} is not text; give a text with {{}} where the class name goes.")
        if PLACEHOLDER not in text:
            raise UserError(f"{where} {text!r} has no {{}}; put {{}} where the class name goes.")
    return templates


def check_sentence_source(where: str, source: str) -> None:
    """Checks that a source of prompts is of a known kind and names a place.

    Raises:
      UserError: it is not.
    """
    kind, _, place = source.partition(":")
    if source == "template" or (kind in SENTENCE_SOURCES and place):
        return
    forms = ("template", *(f"{name}:{what}" for name, what in SENTENCE_SOURCES.items()))
    raise UserError(f"{where} is {source!r}; {choices(source, forms)}")


def check_token(where: str, token: str) -> None:
    """Checks a token of a prompt.

    Raises:
      UserError: it is empty or holds spaces or slashes.
    """
    if not token or any(letter.isspace() or letter in "/\\" for letter in token):
        raise UserError(f"{where} is {token!r}; it should be one word without spaces or slashes.")


def check_file_name(what: str, name: str) -> None:
    """Checks the name of a recipe or a synthetic set, which becomes that of a folder.

    Raises:
      UserError: it holds other characters than letters, digits, "_", "-", "+" and ".".
    """
    if not re.fullmatch(r"[A-Za-z0-9_.+-]+", name):
        raise UserError(f"{what} {name!r} should hold only letters, digits, '_', '-', '+' and '.'.")
