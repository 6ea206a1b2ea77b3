"""Which tokens a config learns from one split of the real images: checks, the vectors that they start from, their identity."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from bridgejax.config import Settings, loading_options
from bridgejax.data import Examples, Task
from bridgejax.diffusion.find import find_generator
from bridgejax.diffusion.spec import TEXT_ENCODERS, GeneratorSpec, content_digest
from bridgejax.errors import UserError
from bridgejax.identity import derive_seed, digest
from bridgejax.inversion.tokens import LearnedToken, fixed_texts, token_prompts
from bridgejax.models.clip_text import TOKEN_TABLE
from bridgejax.models.tokenizer import Tokenizer
from bridgejax.prompts import display_name

CONTEXT_LENGTH = 77  # tokens that a text encoder sees
COMPUTED_STARTS = ("mean_feature", "random")  # of `inversion.initial`; any other is a token of the vocabulary


def split_name(shots: int | None, seed: int) -> str:
    """Returns the folder name of a split: shots per class (None: all) and the study's seed."""
    return f"shots-{'all' if shots is None else shots}_seed-{seed}"


class Vocabulary:
    """The tokens of a generator, read without its networks.

    Attributes:
      spec: of the generator.
      tokenizers: one for each text encoder.
    """

    def __init__(self, settings: Settings) -> None:
        """Finds the generator that the config names.

        Raises:
          UserError: it is missing, damaged or not supported.
        """
        self.spec: GeneratorSpec = find_generator(settings.generator.weights, **loading_options(settings.generator))
        self.tokenizers = tuple(Tokenizer(source, CONTEXT_LENGTH) for source in self.spec.tokenizers)

    @functools.cached_property
    def digest(self) -> str:
        """Of the generator."""
        return content_digest(self.spec)

    @functools.cached_property
    def tables(self) -> tuple[np.ndarray, ...]:
        """The embeddings of the tokens, float32 [tokens, width], for each text encoder."""
        tables = []
        for part, tokenizer in zip(TEXT_ENCODERS, self.tokenizers, strict=False):
            tensors = self.spec.tensors(part)
            if TOKEN_TABLE not in tensors:
                raise UserError(
                    f"{self.spec.where(part)}: tensor {TOKEN_TABLE} is missing; the file is not complete, get it again."
                )
            tables.append(np.asarray(tensors[TOKEN_TABLE], np.float32)[: tokenizer.size])
        return tuple(tables)

    def ids(self, text: str) -> list[list[int]]:
        """Returns the ids of a text alone, without start, end and padding, for each text encoder."""
        inner = []
        for tokenizer in self.tokenizers:
            ids = [int(number) for number in tokenizer([text])[0]]
            inner.append(ids[1 : ids.index(tokenizer.end_id, 1)])
        return inner

    def knows(self, word: str) -> bool:
        """Returns whether a word is a token, alone or at the end of a longer one's spelling."""
        spellings = (word, f"{word}</w>")
        return any(tokenizer.id_of(spelling) is not None for tokenizer in self.tokenizers for spelling in spellings)


class TokenPlan:
    """The tokens of a config for one split of the real images.

    Attributes:
      settings: as given.
      class_names: of the task.
      train: the real images that training sees; nothing else of the task is looked at.
      shots: per class, None for all.
      study_seed: of the split.
      prompts: the tokens and the prompts that hold them.
      steps: updates for each token.
      seed: of all that chance decides.
      determinants: all that decides the tokens, as plain data.
      identity: digest of `determinants`.
    """

    def __init__(self, settings: Settings, task: Task, shots: int | None, seed: int, vocabulary: Vocabulary) -> None:
        """Checks all that can be checked before anything is learned or written.

        Args:
          settings: the config, whose `inversion.mode` is one of `LEARNED_MODES`.
          task: the real images that this seed of the study selects.
          shots: real images per class, None for all.
          seed: of the study.
          vocabulary: of the config's generator.

        Raises:
          UserError: too few images, a token that the vocabulary or the prompts' own text has, one that the text encoder would
            not see, or an initial word of several tokens.
        """
        self.settings, self._vocabulary = settings, vocabulary
        self.class_names: tuple[str, ...] = task.class_names
        self.train: Examples = task.train
        self.shots, self.study_seed = shots, seed
        inversion = settings.inversion
        self.prompts = token_prompts(inversion, self.class_names)
        self.seed = derive_seed(settings.seed if inversion.seed is None else inversion.seed, "inversion", seed)
        untrained = inversion.mode == "untrained"
        self.steps = 0 if untrained else inversion.steps
        self._initial = "random" if untrained else inversion.initial
        for learned in self.prompts.tokens:
            self._check_new(learned.token)
            self._check_seen(learned)
            if not untrained:
                self._check_count(learned)
        if self._initial not in COMPUTED_STARTS:
            self._initial_ids()
        keys = ("mode", "vectors", "learning_rate", "weight_decay", "batch_size", "flip")
        self.determinants: dict[str, object] = {
            **{key: getattr(inversion, key) for key in keys},
            "steps": self.steps,
            "initial": self._initial,
            "seed": self.seed,
            "tokens": [[learned.token, learned.label] for learned in self.prompts.tokens],
            "templates": list(self.prompts.templates),
            "task": task.digest,
            "generator": [vocabulary.digest, settings.generator.dtype],
            "size": [settings.generator.height, settings.generator.width],
            **({} if inversion.longest is None else {"longest": inversion.longest}),
        }
        self.identity = digest(self.determinants)

    @property
    def max_norms(self) -> tuple[float, ...] | None:
        """The greatest length of a token's vector for each text encoder; None means no bound."""
        factor = self.settings.inversion.longest
        if factor is None:
            return None
        return tuple(float(factor * np.linalg.norm(table, axis=1).mean()) for table in self._vocabulary.tables)

    def images_of(self, learned: LearnedToken) -> np.ndarray:
        """Returns the positions of the images that a token is learned from, int64 [n]."""
        return np.arange(len(self.train)) if learned.label is None else np.flatnonzero(self.train.labels == learned.label)

    def classes_of(self, learned: LearnedToken) -> Sequence[int]:
        """Returns the labels of those images."""
        return range(len(self.class_names)) if learned.label is None else [learned.label]

    def start(self, learned: LearnedToken) -> tuple[np.ndarray, ...]:
        """Returns the vectors that a token starts from, float32 [k, width] for each text encoder.

        A word of the vocabulary: its embedding, k times, as in diffusers. "mean_feature": the mean over the token's classes of
        the mean embedding of the tokens of their names, k times: a cheap mean of the data set without an image encoder.
        "random": normal numbers with each dimension's mean and deviation over the vocabulary.
        """
        vectors = self.settings.inversion.vectors
        names = [self.class_names[label] for label in self.classes_of(learned)]
        rows = []
        for number, table in enumerate(self._vocabulary.tables):
            if self._initial == "random":
                rng = np.random.Generator(np.random.Philox(key=derive_seed(self.seed, "start", learned.token, number)))
                noise = rng.standard_normal((vectors, table.shape[1]))
                row = table.mean(axis=0) + table.std(axis=0) * noise
            elif self._initial == "mean_feature":
                means = [table[self._vocabulary.ids(display_name(name))[number]].mean(axis=0) for name in names]
                row = np.tile(np.mean(means, axis=0), (vectors, 1))
            else:
                row = np.tile(table[self._initial_ids()[number]], (vectors, 1))
            rows.append(row.astype(np.float32))
        return tuple(rows)

    def _check_count(self, learned: LearnedToken) -> None:
        count = len(self.images_of(learned))
        if count < 2:
            owner = "the task" if learned.label is None else f"class {self.class_names[learned.label]!r}"
            raise UserError(
                f"{owner} has {count} training image{'' if count == 1 else 's'} to learn the token {learned.token!r} from, and "
                "what is learned from one image reproduces that image; give task.shots of at least 2"
                + (" or inversion.mode='dataset'." if learned.label is not None else ".")
            )

    def _check_seen(self, learned: LearnedToken) -> None:
        for name in (self.class_names[label] for label in self.classes_of(learned)):
            starts = (text.partition(learned.token)[0] for text in self.prompts.of_class(name))
            before = max(len(ids) for start in starts for ids in self._vocabulary.ids(start))
            if before + self.settings.inversion.vectors > CONTEXT_LENGTH - 2:  # a start and an end
                place = "{token}"
                raise UserError(
                    f"in the prompt of class {name!r} the token {learned.token!r} lies beyond the {CONTEXT_LENGTH} tokens that "
                    f"the text encoder sees; shorten the class name (task.class_names) or begin inversion.prompt with {place}."
                )

    def _check_new(self, token: str) -> None:
        # `<t>_1` in the vocabulary would make `<t>` a token of two vectors.
        vectors = self.settings.inversion.vectors
        for name in (token, token.lower(), *(f"{token}_{i}" for i in range(1, max(vectors, 2)))):
            if self._vocabulary.knows(name):
                raise UserError(
                    f"inversion.token {token!r} collides with {name!r} in the vocabulary of "
                    f"{self._vocabulary.spec.folder}; choose another, for instance '<my-style>'."
                )
        fixed = fixed_texts(self.settings.inversion)
        for text in (*fixed, self.settings.prompts.negative, *map(display_name, self.class_names)):
            if token.lower() in text.lower():
                raise UserError(
                    f"inversion.token {token!r} also stands in {text.strip()!r}, where it would be taken for the new token; "
                    "choose another, for instance '<my-style>'."
                )

    def _initial_ids(self) -> list[int]:
        ids = self._vocabulary.ids(self._initial)
        wrong = [each for each in ids if len(each) != 1]
        if wrong:
            raise UserError(
                f"inversion.initial {self._initial!r} is {len(wrong[0])} tokens in the vocabulary of "
                f"{self._vocabulary.spec.folder}; choose a word of one token, 'mean_feature' or 'random'."
            )
        return [each[0] for each in ids]
