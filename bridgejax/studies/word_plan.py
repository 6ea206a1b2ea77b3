"""What words a config learns from one draw of the real images: checks, the vectors that they start from, and their identity."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from bridgejax.diffusion.folder import TEXT_ENCODERS, Description, content_digest, find_generator
from bridgejax.diffusion.textual_inversion import TOKEN_TABLE
from bridgejax.errors import UserError
from bridgejax.generator_options import loading_options
from bridgejax.identity import derive_seed, digest
from bridgejax.models.tokenizer import Tokenizer
from bridgejax.prompts import display_name
from bridgejax.studies.wording import Word, Wording, make_wording, own_texts

TOKENS = 77  # of a text encoder's context
INITIALS = ("mean_feature", "random")


class Vocabulary:
    """The words of a generator, read without its networks.

    Attributes:
      description: of the generator.
      tokenizers: one for each text encoder.
    """

    def __init__(self, config: Any):
        """Finds the generator that the config names.

        Raises:
          UserError: it is missing, damaged or not supported.
        """
        self.description: Description = find_generator(config.generator.weights, **loading_options(config.generator))
        self.tokenizers = tuple(Tokenizer(source, TOKENS) for source in self.description.tokenizers)

    @functools.cached_property
    def digest(self) -> str:
        """Of the generator."""
        return content_digest(self.description)

    @functools.cached_property
    def tables(self) -> tuple[np.ndarray, ...]:
        """The embeddings of the words, float32 [tokens, width], for each text encoder."""
        tables = []
        for part, tokenizer in zip(TEXT_ENCODERS, self.tokenizers, strict=False):
            tensors = self.description.tensors(part)
            if TOKEN_TABLE not in tensors:
                raise UserError(
                    f"{self.description.where(part)}: tensor {TOKEN_TABLE} is missing; the file is not complete, get it again."
                )
            tables.append(np.asarray(tensors[TOKEN_TABLE], np.float32)[: tokenizer.size])
        return tuple(tables)

    def ids(self, text: str) -> list[list[int]]:
        """Returns the ids of a text alone, without start, end and padding, for each text encoder."""
        found = []
        for tokenizer in self.tokenizers:
            ids = [int(number) for number in tokenizer([text])[0]]
            found.append(ids[1 : ids.index(tokenizer.end_id, 1)])
        return found

    def knows(self, word: str) -> bool:
        """Tells whether a word is a token, alone or at the end of a longer one's spelling."""
        return any(tokenizer.id_of(one) is not None for tokenizer in self.tokenizers for one in (word, f"{word}</w>"))


class WordPlan:
    """The words of a config for one draw of the real images.

    Attributes:
      config: as given.
      class_names: of the task.
      train: the real images that training sees; nothing else of the task is looked at.
      shots: per class, None for all.
      study_seed: of the draw.
      wording: the words and the prompts.
      steps: updates for each word.
      seed: of all that chance decides.
      settings: all that decides the words.
      identity: digest of `settings`.
    """

    def __init__(self, config: Any, task: Any, shots: int | None, seed: int, vocabulary: Vocabulary):
        """Checks all that can be checked before anything is learned or written.

        Args:
          config: a checked config whose `inversion.mode` is one of `bridgejax.studies.wording.LEARNED`.
          task: the real images that this seed of the study draws.
          shots: real images per class, None for all.
          seed: of the study.
          vocabulary: of the config's generator.

        Raises:
          UserError: too few images, a word that the vocabulary or the prompts' own text has, one that the text encoder would
            not see, or an initial word of several tokens.
        """
        self.config, self._vocabulary = config, vocabulary
        self.class_names, self.train = task.class_names, task.train
        self.shots, self.study_seed = shots, seed
        inversion = config.inversion
        self.wording: Wording = make_wording(inversion, self.class_names)
        self.seed = derive_seed(config.seed if inversion.seed is None else inversion.seed, "inversion", seed)
        untrained = inversion.mode == "untrained"
        self.steps = 0 if untrained else inversion.steps
        self._initial = "random" if untrained else inversion.initial
        for word in self.wording.words:
            self._check_new(word.token)
            self._check_seen(word)
            if not untrained:
                self._check_count(word)
        if self._initial not in INITIALS:
            self._initial_ids()
        keys = ("mode", "vectors", "learning_rate", "weight_decay", "batch_size", "flip")
        self.settings: dict[str, Any] = {
            **{key: inversion[key] for key in keys},
            "steps": self.steps,
            "initial": self._initial,
            "seed": self.seed,
            "tokens": [[word.token, word.label] for word in self.wording.words],
            "templates": list(self.wording.templates),
            "task": task.digest,
            "generator": [vocabulary.digest, config.generator.dtype],
            "size": [config.generator.height, config.generator.width],
            **({} if inversion.longest is None else {"longest": inversion.longest}),
        }
        self.identity = digest(self.settings)

    @property
    def name(self) -> str:
        """Of the folder of this draw."""
        return f"shots-{'all' if self.shots is None else self.shots}_seed-{self.study_seed}"

    @property
    def longest(self) -> tuple[float, ...] | None:
        """The greatest length of a word's vector for each text encoder; None means no bound."""
        factor = self.config.inversion.longest
        if factor is None:
            return None
        return tuple(float(factor * np.linalg.norm(table, axis=1).mean()) for table in self._vocabulary.tables)

    def images_of(self, word: Word) -> np.ndarray:
        """Returns the positions of the images that a word is learned from."""
        return np.arange(len(self.train)) if word.label is None else np.flatnonzero(self.train.labels == word.label)

    def start(self, word: Word) -> tuple[np.ndarray, ...]:
        """Returns the vectors that a word starts from, float32 [k, width] for each text encoder.

        A word's: its embedding, k times, as in diffusers. "mean_feature": the mean over the word's classes of the mean
        embedding of the tokens of their names, k times: a cheap mean of the data set without an image encoder. "random":
        normal numbers with each dimension's mean and deviation over the vocabulary.
        """
        vectors = self.config.inversion.vectors
        names = self.class_names if word.label is None else [self.class_names[word.label]]
        rows = []
        for number, table in enumerate(self._vocabulary.tables):
            if self._initial == "random":
                rng = np.random.Generator(np.random.Philox(key=derive_seed(self.seed, "start", word.token, number)))
                noise = rng.standard_normal((vectors, table.shape[1]))
                row = table.mean(axis=0) + table.std(axis=0) * noise
            elif self._initial == "mean_feature":
                means = [table[self._vocabulary.ids(display_name(name))[number]].mean(axis=0) for name in names]
                row = np.tile(np.mean(means, axis=0), (vectors, 1))
            else:
                row = np.tile(table[self._initial_ids()[number]], (vectors, 1))
            rows.append(row.astype(np.float32))
        return tuple(rows)

    def _check_count(self, word: Word) -> None:
        count = len(self.images_of(word))
        if count < 2:
            whose = "the task has" if word.label is None else f"class {self.class_names[word.label]!r} has"
            raise UserError(
                f"{whose} {count} training image{'' if count == 1 else 's'} to learn the word {word.token!r} from, and a word "
                "learned from one image is that image; give task.shots of at least 2"
                + (" or inversion.mode='dataset'." if word.label is not None else ".")
            )

    def _check_seen(self, word: Word) -> None:
        names = self.class_names if word.label is None else [self.class_names[word.label]]
        for name in names:
            starts = (text.partition(word.token)[0] for text in self.wording.prompts(name))
            before = max(len(ids) for start in starts for ids in self._vocabulary.ids(start))
            if before + self.config.inversion.vectors > TOKENS - 2:  # a start and an end
                place = "{token}"
                raise UserError(
                    f"in the prompt of class {name!r} the word {word.token!r} lies beyond the {TOKENS} tokens that the text "
                    f"encoder sees; shorten the class name (task.class_names) or put {place} first in inversion.prompt."
                )

    def _check_new(self, token: str) -> None:
        # `<t>_1` in the vocabulary would make `<t>` a word of two vectors.
        vectors = self.config.inversion.vectors
        for name in (token, token.lower(), *(f"{token}_{i}" for i in range(1, max(vectors, 2)))):
            if self._vocabulary.knows(name):
                raise UserError(
                    f"inversion.token {token!r} collides with {name!r} in the vocabulary of "
                    f"{self._vocabulary.description.folder}; choose another, for instance '<my-style>'."
                )
        texts = (*own_texts(self.config.inversion), self.config.prompts.negative or "", *map(display_name, self.class_names))
        for text in texts:
            if token.lower() in text.lower():
                raise UserError(
                    f"inversion.token {token!r} also stands in {text.strip()!r}, where it would be taken for the new word; "
                    "choose another, for instance '<my-style>'."
                )

    def _initial_ids(self) -> list[int]:
        ids = self._vocabulary.ids(self._initial)
        wrong = [found for found in ids if len(found) != 1]
        if wrong:
            raise UserError(
                f"inversion.initial {self._initial!r} is {len(wrong[0])} tokens in the vocabulary of "
                f"{self._vocabulary.description.folder}; choose a word of one token, 'mean_feature' or 'random'."
            )
        return [found[0] for found in ids]
