"""Language enhancement (He et al. 2023, section 3.1): sentences of a language model stand for class names in prompts.

What a language model says is kept in the workdir beside all that made it, so that a call that was cut off goes on and a set of
images can be made again from the same sentences.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from bridgejax.config import PLACEHOLDER, PromptSettings
from bridgejax.errors import UserError
from bridgejax.files import write_atomic
from bridgejax.identity import derive_seed, digest
from bridgejax.progress import progress, stage_heading
from bridgejax.prompts.classes import display_name
from bridgejax.prompts.endpoint import Endpoint
from bridgejax.prompts.sentences import Sentence, distinct, flags, read_sentences

_FORMAT = 1
_MOST_ROUNDS = 8  # in which a class is asked for what it lacks
_SAVE_SECONDS = 5.0
Sentences = dict[str, tuple[str, ...]]  # class name → its sentences


class SentenceWriter(Protocol):
    """A language model as a source of sentences."""

    def about(self) -> dict[str, object]:
        """Returns what decides its sentences besides class, seed and number, as plain JSON."""

    def draw(self, class_name: str, number: int, wanted: int) -> list[str]:
        """Returns texts for a class in round `number`, more or fewer than wanted."""


class T5Writer:
    """Sentences of a T5 folder; it is loaded when the first is drawn."""

    def __init__(self, folder: str, prompts: PromptSettings, class_names: Sequence[str], seed: int):
        """Checks what can be checked before the weights are read.

        Raises:
          UserError: the folder is incomplete, or its vocabulary has nothing of a class's name.
        """
        from bridgejax.prompts.language_model import LANGUAGE_MODELS, language_model_digest
        from bridgejax.prompts.text_tokenizer import TextTokenizer

        self.folder, self._prompts, self._seed = LANGUAGE_MODELS.resolve(folder), prompts, seed
        self._digest = language_model_digest(folder)
        tokenizer = TextTokenizer(self.folder)
        for name in class_names:
            if not tokenizer.knows(display_name(name)):
                raise UserError(
                    f"the vocabulary of {self.folder} has nothing of class name {name!r}, so it can write no sentence of it; "
                    "rename the class or take another source (prompts.source)."
                )

    def about(self) -> dict[str, object]:
        keys = ("max_tokens", "temperature", "top_k", "top_p")
        options = {key: getattr(self._prompts, key) for key in keys}
        return {"source": "t5", "model": self._digest, **options, "question": self._question}

    @property
    def _question(self) -> str:
        return self._prompts.question or PLACEHOLDER

    def draw(self, class_name: str, number: int, wanted: int) -> list[str]:
        from bridgejax.prompts.language_model import load_language_model

        if not hasattr(self, "_model"):
            self._model = load_language_model(self.folder)
        rows = wanted * 5 // 4 + 1  # the released code too draws 250 for 200
        prompts = self._prompts
        return self._model.generate(
            [self._question.replace(PLACEHOLDER, display_name(class_name))] * rows,
            seeds=[derive_seed(self._seed, class_name, number, row) for row in range(rows)],
            max_tokens=prompts.max_tokens,
            temperature=prompts.temperature,
            top_k=prompts.top_k,
            top_p=prompts.top_p,
        )


@dataclasses.dataclass(frozen=True)
class SentencePlan:
    """Where the sentences of a set come from."""

    class_names: tuple[str, ...]  # the classes
    count: int  # sentences of a class
    ready: Sentences | None = None  # the sentences, of a source that is a file; else None
    writer: SentenceWriter | None = None  # the language model, of any other source
    seed: int = 0  # of all that chance decides

    @property
    def about(self) -> dict[str, object]:
        """What decides the sentences of a class, as plain JSON."""
        made_by = {} if self.writer is None else self.writer.about()
        return {"format": _FORMAT, "seed": self.seed, "sentences": self.count, **made_by}

    def file(self, folder: Path) -> Path:
        """Returns the file in which the sentences of a language model are kept."""
        kind = str(self.about.get("source", "file")).partition(":")[0]
        return folder / f"{kind}-{digest(self.about)[:12]}.jsonl"

    def make(self, folder: Path) -> Sentences:
        """Returns the sentences of each class, made now in the folder as far as they are not there.

        Raises:
          UserError: the language model fails, or gives no sentence for a class; what was kept and how to go on is said.
        """
        if self.ready is not None:
            return self.ready
        store = _Store(self.file(folder), self.about)
        lacking = [name for name in self.class_names if not store.is_finished(name, self.count)]
        if lacking:
            about = f"{self.count} per class, {len(lacking)} of {len(self.class_names)} classes"
            stage_heading(f"sentences: {about}, from {self.about['source']}")
            self._write(store, lacking)
        made = {name: tuple(store.sentences[name])[: self.count] for name in self.class_names}
        if lacking:
            stray, total = flags(made), sum(map(len, made.values()))
            stage_heading(f"  {total} sentences in {store.file}; {stray} do not name their class")
        return made

    def _write(self, store: _Store, names: Sequence[str]) -> None:
        if self.writer is None:
            raise RuntimeError("this plan has no language model")
        with progress(len(names), "sentences", "class") as bar:
            try:
                for name in names:
                    for _ in range(_MOST_ROUNDS):
                        if store.is_finished(name, self.count):
                            break
                        known = store.sentences.setdefault(name, [])
                        number = store.rounds.get(name, 0)
                        known += distinct(self.writer.draw(name, number, self.count - len(known)), known)
                        store.rounds[name] = number + 1
                        store.save(at_once=False)
                    if not store.sentences[name]:
                        raise UserError(f"{self.about['source']} gave no usable sentence for class {name!r}.")
                    if len(store.sentences[name]) < self.count:
                        stage_heading(f"  {name}: only {len(store.sentences[name])} different sentences came")
                    bar.update(1)
            except UserError as error:
                store.save()
                kept = [len(texts) for texts in store.sentences.values() if texts]
                raise UserError(
                    f"{str(error).rstrip('.')}; {sum(kept)} sentences ({len(kept)} of {len(self.class_names)} classes) are "
                    f"kept in {store.file}, and the same command goes on from there."
                ) from error
            except BaseException:
                store.save()
                raise
        store.save()


class _Store:
    """A file of sentences: first a line on what made them, then a line for each; written whole."""

    def __init__(self, file: Path, about: Mapping[str, object]):
        """Reads what is there; a file that is not as it was written is an error, since images may rest on it."""
        self.file, self._about = file, dict(about)
        self.sentences: dict[str, list[str]] = {}
        self.rounds: dict[str, int] = {}
        self._saved = time.monotonic()
        if not file.is_file():
            return
        try:
            first, *lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
            self.rounds = {str(name): int(number) for name, number in first["rounds"].items()}
            for line in lines:
                self.sentences.setdefault(line["class"], []).append(line["sentence"])
            whole = first["about"] == self._about and first["content"] == digest(self.sentences)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise UserError(
                f"{file} is not as bridgejax wrote it; restore it, delete it to have new ones made, or use it as it is with "
                f"prompts.source=file:{file} in a new workdir."
            )

    def is_finished(self, name: str, count: int) -> bool:
        """Returns whether a class has its sentences, or as many as came of it."""
        known = self.sentences.get(name, ())
        return len(known) >= count or (len(known) > 0 and self.rounds.get(name, 0) >= _MOST_ROUNDS)

    def save(self, at_once: bool = True) -> None:
        """Writes the file; unless `at_once`, only if it was not written just now."""
        if not at_once and time.monotonic() < self._saved + _SAVE_SECONDS:
            return
        written = {name: texts for name, texts in self.sentences.items() if texts}
        about = {"about": self._about, "identity": digest(self._about), "rounds": self.rounds, "content": digest(written)}
        rows = [Sentence.of(name, text).row() for name, texts in written.items() for text in texts]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [about, *rows]))
        self._saved = time.monotonic()


def plan_sentences(prompts: PromptSettings, class_names: Sequence[str], seed: int) -> SentencePlan | None:
    """Returns where the sentences of a config come from, None if its prompts have class names alone.

    A file is read now; of a language model, what can be checked without loading or asking it is checked.

    Args:
      prompts: the keys of a checked config.
      class_names: of the task.
      seed: of the config; `prompts.seed` goes before it.

    Raises:
      UserError: the file lacks a class, the folder is incomplete or the address is none.
    """
    kind, _, place = prompts.source.partition(":")
    names = tuple(class_names)
    if kind == "template":
        return None
    if kind in ("file", "builtin"):
        ready = read_sentences(place if kind == "file" else prompts.source, names, prompts.sentences)
        return SentencePlan(names, prompts.sentences, ready)
    seed = derive_seed(seed, "sentences") if prompts.seed is None else prompts.seed
    writer: SentenceWriter
    writer = T5Writer(place, prompts, names, seed) if kind == "t5" else Endpoint.of(place, prompts, seed)
    return SentencePlan(names, prompts.sentences, None, writer, seed)
