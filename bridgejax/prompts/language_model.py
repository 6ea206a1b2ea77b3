"""Language models by folder: `load_language_model` gives a T5 that continues texts."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from bridgejax.errors import UserError, whole_number
from bridgejax.files import read_json_object
from bridgejax.identity import folder_digest, keys_from_seeds
from bridgejax.models.building import ShapesOnly
from bridgejax.models.clip import as_strings
from bridgejax.models.safetensors_files import find_weights, read_tensors
from bridgejax.models.t5 import T5, T5_RULES, T5Config, has_own_head, plain_t5_tensors
from bridgejax.models.weight_sources import WeightSources
from bridgejax.models.weights import assign
from bridgejax.prompts.decoding import Filters, decode, encode
from bridgejax.prompts.text_tokenizer import JSON_FILE, PIECES_FILE, TextTokenizer

_CONFIG = "config.json"
_HUB_FILES = (_CONFIG, "model*.safetensors", "model.safetensors.index.json", JSON_FILE, PIECES_FILE)
LANGUAGE_MODELS = WeightSources("language model", f"{_CONFIG} and model.safetensors", _HUB_FILES)
# Shapes that programs are compiled for: rows of a call, tokens of a source and of a text.
_MOST_ROWS, _ROWS, _TOKENS = 128, 8, 16


class LanguageModel:
    """A T5 with its tokenizer.

    Attributes:
      folder: where it lies.
      model: the network.
    """

    def __init__(self, folder: Path, model: T5):
        """Takes the network of a folder; its tokenizer is read when first asked for."""
        self.folder, self.model = folder, model
        self._graph, self._state = nnx.split(model)

    @functools.cached_property
    def tokenizer(self) -> TextTokenizer:
        """The folder's tokenizer.

        Raises:
          UserError: the folder has none, or it cannot be read.
        """
        return TextTokenizer(self.folder)

    def logits(self, input_ids: npt.ArrayLike, decoder_input_ids: npt.ArrayLike) -> jax.Array:
        """Returns the logits of the token after each one, float32 [n, t, vocabulary].

        Args:
          input_ids: whole numbers [n, s], the source texts; pad tokens are masked.
          decoder_input_ids: whole numbers [n, t], the texts so far, which begin with the start token.

        Raises:
          UserError: the shapes are others, or an id is not in the vocabulary.
        """
        size = self.model.config.vocab_size
        try:
            ids = [np.asarray(given) for given in (input_ids, decoder_input_ids)]
        except ValueError as error:  # NumPy's, of rows that differ in length
            raise UserError("rows of input_ids or decoder_input_ids differ in length; pad them with the pad token.") from error
        for name, each in zip(("input_ids", "decoder_input_ids"), ids, strict=True):
            if each.ndim != 2 or not each.size or not np.issubdtype(each.dtype, np.integer) or len(each) != len(ids[0]):
                raise UserError(f"{name} is {each.dtype} {list(each.shape)}; give whole numbers, one row per text in both.")
            if each.min() < 0 or each.max() >= size:
                raise UserError(f"{name} holds ids outside the vocabulary of {size} tokens.")
        return _logits(self._graph, self._state, *(jnp.asarray(each, jnp.int32) for each in ids))

    def generate(
        self,
        texts: Sequence[str],
        *,
        seeds: Sequence[int] | npt.NDArray[np.integer],
        max_tokens: int = 32,
        temperature: float = 1.0,
        top_k: int = 50,
        top_p: float = 1.0,
    ) -> list[str]:
        """Draws a text, without special tokens, for each source; text i depends on (texts[i], seeds[i]) and the options alone.

        Args:
          texts: the source texts.
          seeds: whole numbers of at most 64 bits, one per text.
          max_tokens: of a drawn text, the end token included.
          temperature: by which logits are divided, above 0.
          top_k: only so many of the likeliest tokens may follow; 1 is greedy, 0 is no bound.
          top_p: only the likeliest tokens that have this probability together may follow, in (0, 1]; 1 is no bound.

        Raises:
          UserError: an argument is wrong, or the folder has no tokenizer.
        """
        rows = list(as_strings(texts, "texts"))
        numbers = np.atleast_1d(np.asarray(seeds, object)).tolist()
        _check(rows, numbers, max_tokens, temperature, top_k, top_p)
        if not rows:
            return []
        size = self.model.config.vocab_size
        top_k = min(top_k or size, size)
        filters = Filters(jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p))
        most = min(1 << (top_k - 1).bit_length(), size)
        length = _rounded(max_tokens, _TOKENS)
        keys, ids = keys_from_seeds(numbers), self.tokenizer.encode(rows)
        # Texts of one length go together, so that long ones do not fill up the others.
        order = sorted(range(len(rows)), key=lambda row: _rounded(len(ids[row]), _TOKENS))
        drawn: dict[int, list[int]] = {}
        for group in _groups(order, [_rounded(len(each), _TOKENS) for each in ids]):
            distinct = list(dict.fromkeys(tuple(ids[row]) for row in group))
            places = {each: place for place, each in enumerate(distinct)}
            table = np.full((_row_shape(len(distinct)), _rounded(len(ids[group[0]]), _TOKENS)), self.model.config.pad_id)
            for place, each in enumerate(distinct):
                table[place, : len(each)] = each
            padded = [*group, *[group[-1]] * (_row_shape(len(group)) - len(group))]
            of_rows = jnp.asarray([places[tuple(ids[row])] for row in padded], jnp.int32)
            source = encode(self._graph, self._state, jnp.asarray(table, jnp.int32), of_rows)
            real = jnp.arange(len(padded)) < len(group)
            tokens = decode(
                self._graph,
                self._state,
                source,
                keys[np.asarray(padded)],
                real,
                jnp.int32(max_tokens),
                filters,
                length=length,
                most=most,
            )
            drawn |= dict(zip(group, np.asarray(tokens).tolist(), strict=False))
        return self.tokenizer.decode([drawn[row] for row in range(len(rows))])


def _check(rows: list[str], seeds: list[int], max_tokens: int, temperature: float, top_k: int, top_p: float) -> None:
    for text in rows:
        if not isinstance(text, str):
            raise UserError(f"text {text!r} is not a string; give a list of strings.")
    if len(seeds) != len(rows):
        raise UserError(f"there are {len(seeds)} seeds for {len(rows)} texts; give one whole number per text.")
    for name, number in (("temperature", temperature), ("top_p", top_p)):
        if isinstance(number, bool) or not isinstance(number, int | float | np.integer | np.floating):
            raise UserError(f"{name} is {number!r}; give a number.")
    whole_number("max_tokens", max_tokens, 1)
    whole_number("top_k", top_k, 0)
    if not 0 < temperature < float("inf"):
        raise UserError(f"temperature is {temperature!r}; give a number above 0 (top_k=1 is greedy).")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p!r}; give a number above 0 and at most 1.")


@functools.partial(jax.jit, static_argnames="graph")
def _logits(graph: nnx.GraphDef[T5], state: nnx.State, ids: jax.Array, decoder_ids: jax.Array) -> jax.Array:
    return nnx.merge(graph, state)(ids, decoder_ids)


def _rounded(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _row_shape(count: int) -> int:
    """Returns the rows of the program that takes so many: 1, 2, 4 or a multiple of 8."""
    return 1 << (count - 1).bit_length() if count < _ROWS else _rounded(count, _ROWS)


def _groups(order: list[int], lengths: list[int]) -> Iterator[list[int]]:
    """Yields the rows of each call: of one length, at most `_MOST_ROWS`, as even as can be."""
    for length in dict.fromkeys(lengths[row] for row in order):
        same = [row for row in order if lengths[row] == length]
        calls = -(-len(same) // _MOST_ROWS)
        size = -(-len(same) // calls)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def language_model_digest(folder: str | Path) -> str:
    """Returns the SHA-256 of what decides a language model's texts: its config, weights and tokenizer.

    Raises:
      UserError: one of them is missing, or the config or the tokenizer cannot be read.
    """
    place = LANGUAGE_MODELS.resolve(folder)
    _read_config(place)
    weights = find_weights(place)
    if absent := [file for file in weights if not file.is_file()]:
        raise UserError(f"{absent[0]} is missing; fetch the folder again.")
    return folder_digest(place, (file.name for file in (place / _CONFIG, *weights, TextTokenizer(place).file)))


def _read_config(folder: Path) -> T5Config:
    file = folder / _CONFIG
    if not file.exists():
        raise UserError(f"{file} is missing; a T5 folder needs {_CONFIG} beside model.safetensors.")
    return T5Config.read(read_json_object(file, "get the published file"), str(file))


def load_language_model(folder: str | Path) -> LanguageModel:
    """Loads a T5 of transformers with its weights, float32.

    Args:
      folder: holds `config.json`, `model.safetensors` (or parts with an index) and, for texts, `tokenizer.json` or
        `spiece.model`; or a hub name (owner/name; only then is there any network, and none when the hub's cache holds it).

    Raises:
      UserError: the folder, its config or its weights are missing, damaged, not supported or do not fit together.
    """
    place = LANGUAGE_MODELS.resolve(folder)
    config = _read_config(place)
    tensors = plain_t5_tensors(read_tensors(place), str(place))
    abstract = T5(config, own_head=has_own_head(tensors), rngs=ShapesOnly())
    return LanguageModel(place, assign(abstract, tensors, T5_RULES, str(place)))
