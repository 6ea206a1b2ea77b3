"""Sentences that stand for a class in its prompts: read from files, made tidy, flagged where they do not name their class."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bridgejax.config import PLACEHOLDER
from bridgejax.errors import UserError, choices
from bridgejax.files import asset_folder
from bridgejax.prompts.classes import display_name

BUILTIN = "sentences"  # the folder of built-in files
_LONGEST = 400  # characters; more than a text encoder sees
_FORMS = 'a JSON object {"class": …, "sentence": …}, CLASS, a tab and a sentence, or a sentence with {} for any class'


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence of a class."""

    class_name: str  # the class
    text: str  # the sentence
    names_class: bool  # whether the class's name stands in it, in the singular or with an "s"

    @classmethod
    def of(cls, class_name: str, text: str) -> Sentence:
        """Returns a sentence with its flag."""
        return cls(class_name, text, names_class(text, class_name))

    def row(self) -> dict[str, object]:
        """Returns it as a line of a file has it."""
        return {"class": self.class_name, "sentence": self.text, "names_class": self.names_class}


def names_class(text: str, class_name: str) -> bool:
    """Returns whether a text holds a class's name as whole words, upper and lower case alike, or its plural with -s or -es."""
    name = r"\W+".join(map(re.escape, display_name(class_name).casefold().split()))
    return re.search(rf"(?<!\w){name}(?:e?s)?(?!\w)", text.casefold()) is not None


def tidy(text: str) -> str:
    """Returns a text on one line with single spaces; "" if it is too long for a sentence or holds control characters."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST and line.isprintable() else ""


def distinct(texts: Iterable[str], known: Iterable[str] = ()) -> list[str]:
    """Returns the tidy texts, each once and none of the known ones, in order."""
    seen = set(known)
    found = dict.fromkeys(line for text in texts if (line := tidy(text)) and line not in seen)
    return list(found)


def read_sentences(source: str | Path, class_names: Sequence[str], most: int) -> dict[str, tuple[str, ...]]:
    """Returns the first distinct sentences of each class in a file.

    Args:
      source: the file, or "builtin:NAME". Each line is a JSON object with `class` and `sentence` (other keys are passed over,
        and so is the first line of a file that bridgejax wrote); or the class, a tab and the sentence; or a sentence with `{}`
        where any class's name goes. Empty lines and lines that begin with "#" are passed over.
      class_names: the classes wanted; `_` and a space are the same in names.
      most: sentences of a class.

    Raises:
      UserError: the file is missing, a line is none of these, or a class has no sentence.
    """
    file = _builtin(source) if isinstance(source, str) and source.startswith("builtin:") else Path(source).expanduser()
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"the sentence file {file} cannot be read ({reason}); check prompts.source.") from error
    by_name = {display_name(name): name for name in class_names}
    found: dict[str, list[str]] = {name: [] for name in class_names}
    others: set[str] = set()
    for name, text in _entries(file, lines):
        if name is None:
            for each in class_names:
                found[each].append(text.replace(PLACEHOLDER, display_name(each)))
        elif display_name(name) in by_name:
            found[by_name[display_name(name)]].append(text)
        else:
            others.add(name)
    tidied = {name: tuple(distinct(texts))[:most] for name, texts in found.items()}
    if missing := [name for name, texts in tidied.items() if not texts]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        known = f"; of the others it has, {choices(missing[0], sorted(others))}" if others else "."
        add = "give file:PATH of your own" if str(source).startswith("builtin:") else "add some, one a line"
        raise UserError(f"{file} has no sentence for class {missing[0]!r}{more}; {add}{known}")
    return tidied


def _builtin(source: str) -> Path:
    folder = asset_folder(BUILTIN)
    known = {f"builtin:{file.stem}": file for file in sorted(folder.glob("*.jsonl"))}
    if source not in known:
        raise UserError(f"there are no built-in sentences {source!r}; {choices(source, known)}")
    return known[source]


def _entries(file: Path, lines: Sequence[str]) -> Iterator[tuple[str | None, str]]:
    """Yields (class, sentence) of each line; None stands for every class."""
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.lstrip().startswith("{") and not line.lstrip().startswith(PLACEHOLDER):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{file}, line {number}: it is not JSON ({error}); a line is {_FORMS}.") from error
            if number == 1 and "about" in row:
                continue
            if not isinstance(row.get("class"), str) or not isinstance(row.get("sentence"), str):
                raise UserError(f"{file}, line {number}: class and sentence should be texts; a line is {_FORMS}.")
            yield row["class"], row["sentence"]
            continue
        name, tab, text = line.partition("\t")
        if not tab and PLACEHOLDER not in line:
            raise UserError(f"{file}, line {number}: {line.strip()[:40]!r} does not say its class; a line is {_FORMS}.")
        yield (name.strip(), text) if tab else (None, line)


def flags(sentences: Mapping[str, Sequence[str]]) -> int:
    """Returns how many sentences do not name their class."""
    return sum(not names_class(text, name) for name, texts in sentences.items() for text in texts)
