"""Words learned as embeddings (textual inversion, Gal et al. 2022, arXiv:2208.01618): read, appended, written.

A file holds one or more vectors per text encoder: `{token: [d] or [k, d]}` (diffusers), `emb_params` (A1111), or `clip_l`
and `clip_g` for the two encoders of SDXL. A word of k vectors becomes k tokens, `<t>`, `<t>_1`, …, and the tokenizer writes
`<t>` out as all of them, as diffusers does. A LoRA file may bundle words, each with the tensors of such a file under
`bundle_emb.WORD.`; they come with the LoRA, whatever its scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from bridgejax.config import nfc
from bridgejax.diffusion.lora import BUNDLED, lora_file, weights_file
from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models.safetensors_files import read_tensors, save_tensors
from bridgejax.models.tokenizer import Tokenizer, TokenizerSource

_XL_NAMES = ("clip_l", "clip_g")


@dataclasses.dataclass(frozen=True)
class Word:
    """A word to append."""

    text: str  # as prompts hold it
    vectors: Sequence[np.ndarray]  # float32 [k, width] for each text encoder
    source: str = "embeddings"  # where it comes from, for messages: the option `embeddings`, or a file


def read_embedding(path: Path, widths: Sequence[int]) -> list[np.ndarray]:
    """Reads the vectors of one word: float32 [k, width] for each text encoder, k ≥ 1 and the same for all.

    Args:
      path: a safetensors file, or a folder with `learned_embeds.safetensors`.
      widths: of the generator's text encoders.

    Raises:
      UserError: the file is missing, damaged, a pickle, of another kind, or for another text encoder; it is named.
    """
    file = weights_file(path, "textual-inversion embedding", ("learned_embeds.safetensors",))
    return _vectors(file, read_tensors(file), widths)


def bundled_words(path: Path, widths: Sequence[int]) -> list[Word]:
    """Reads the words that a LoRA file holds beside its changes.

    Args:
      path: of a LoRA, as for `bridgejax.diffusion.lora.read_lora`.
      widths: of the generator's text encoders.

    Raises:
      UserError: a word's tensors are none, or are for another text encoder; they are named.
    """
    file = lora_file(path)
    content: dict[str, dict[str, np.ndarray]] = {}
    for name, array in read_tensors(file).items():
        if name.startswith(BUNDLED):
            word, _, inner = name.removeprefix(BUNDLED).partition(".")
            content.setdefault(word, {})[inner] = array
    return [Word(word, _vectors(file, tensors, widths, f"{BUNDLED}{word}."), str(file)) for word, tensors in content.items()]


def _vectors(file: Path, content: Mapping[str, np.ndarray], widths: Sequence[int], start: str = "") -> list[np.ndarray]:
    """Returns the vectors of one word; `start` is what stands before the names of its tensors in the file."""
    pair = set(content) == set(_XL_NAMES)
    if not pair and len(content) != 1:
        raise UserError(
            f"{file} holds {len(content)} tensors ({', '.join(start + name for name in sorted(content)[:3])}"
            f"{'…' * (len(content) > 3)}), so {'they are' if start else 'it is'} not a textual-inversion embedding; expected "
            "one tensor, or clip_l and clip_g."
        )
    if pair != (len(widths) == 2):
        holds, wants = ("clip_l and clip_g (SDXL)", "one text encoder") if pair else ("one tensor", "two text encoders (SDXL)")
        raise UserError(
            f"{file} holds {holds}{f' at {start}…' * bool(start)}, but the generator has {wants}; it is an embedding for "
            "another base."
        )
    rows = []
    for name, width in zip(_XL_NAMES if pair else content, widths, strict=True):
        array = content[name]
        if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
            raise UserError(
                f"{file}: tensor {start}{name} has dtype {array.dtype}; an embedding must be float32, float16 or bfloat16."
            )
        vectors = array.astype(np.float32)
        vectors = vectors[None] if vectors.ndim == 1 else vectors
        if vectors.ndim != 2 or vectors.shape[0] < 1 or vectors.shape[1] != width:
            raise UserError(
                f"{file}: tensor {start}{name} has shape {list(array.shape)}, but the text encoder's vectors have {width} "
                "numbers; it is an embedding for another base."
            )
        if not np.isfinite(vectors).all():
            raise UserError(f"{file}: tensor {start}{name} holds NaN or infinity; the file is damaged, get it again.")
        rows.append(vectors)
    if len({len(vectors) for vectors in rows}) != 1:
        raise UserError(f"{file}: {start}clip_l has {len(rows[0])} vectors and clip_g {len(rows[1])}; they must be as many.")
    return rows


def extend_vocabulary(
    sources: Sequence[TokenizerSource], tables: Sequence[np.ndarray], configs: Sequence[JSONObject], words: Sequence[Word]
) -> tuple[tuple[TokenizerSource, ...], list[np.ndarray], tuple[JSONObject, ...]]:
    """Appends words to tokenizers and to the token tables of text encoders.

    Args:
      sources: one tokenizer per text encoder.
      tables: their token embeddings, [vocabulary, width].
      configs: their `config.json`.
      words: what to append, in order; their texts are taken in NFC, as tokenizers read prompts.

    Returns:
      Sources with the words added; tables with their rows, in the tables' dtype; configs with the new size of the vocabulary.
      A config of old that marks the end of a prompt as "the largest id" (`eos_token_id` 2) gets the id itself, since added
      words have larger ones.

    Raises:
      UserError: a word stands in a vocabulary already, or is not a single word; a tokenizer does not fit its table.
    """
    tokenizers = [Tokenizer(source, 77) for source in sources]
    read: list[tuple[list[str], Sequence[np.ndarray]]] = []
    taken: set[str] = set()
    for entry in words:
        where, word = entry.source, entry.text
        rename = "choose another word" if where == "embeddings" else f"rename its tensors {BUNDLED}{word}.… in the file"
        if not isinstance(word, str) or not word or word != word.strip() or any(letter.isspace() for letter in word):
            raise UserError(f"{where}: {word!r} is not a single word; {rename}: something like '<my-style>', without spaces.")
        word = nfc(word)
        names = [word, *(f"{word}_{i}" for i in range(1, len(entry.vectors[0])))]
        # `<t>_1` would make `<t>` a word of two vectors, even where `<t>` has one.
        for name in {*names, f"{word}_1", word.lower()}:
            if name in taken or any(tokenizer.id_of(name) is not None for tokenizer in tokenizers):
                raise UserError(f"{where}: {word!r} cannot be added, since {name!r} is in the vocabulary; {rename}.")
        taken |= set(names)
        read.append((names, entry.vectors))

    added = tuple(name for names, _ in read for name in names)
    new_sources, new_tables, new_configs = [], [], []
    for number, (source, table, config, tokenizer) in enumerate(zip(sources, tables, configs, tokenizers, strict=True)):
        if tokenizer.size > len(table):
            raise UserError(
                f"{source.folder} knows {tokenizer.size} tokens, but its text encoder {len(table)}; "
                "the tokenizer is not this generator's."
            )
        rows = np.concatenate([vectors[number] for _, vectors in read]).astype(table.dtype)
        size = max(len(table), tokenizer.size + len(rows))
        # Rows between the tokenizer's last word and the table's end are never looked up.
        bigger = np.zeros((size, table.shape[1]), table.dtype)
        bigger[: len(table)] = table
        bigger[tokenizer.size : tokenizer.size + len(rows)] = rows
        text = dict(config.get("text_config", config))
        text["vocab_size"] = size
        if text.get("eos_token_id", 2) == 2:
            text["eos_token_id"] = tokenizer.end_id
        new_sources.append(dataclasses.replace(source, added=source.added + added))
        new_tables.append(bigger)
        new_configs.append({**config, "text_config": text} if "text_config" in config else text)
    return tuple(new_sources), new_tables, tuple(new_configs)


def save_embedding(path: str | Path, token: str, array: ArrayLike | tuple[ArrayLike, ArrayLike]) -> None:
    """Writes a learned word as a safetensors file that `embeddings=` and PyTorch diffusers' `load_textual_inversion` read.

    Args:
      path: the file, ending in .safetensors; whole or absent.
      token: the word.
      array: [d] or [k, d] floating-point vectors; for SDXL a pair of them, for the first and the second text encoder
        (written as `clip_l` and `clip_g`: diffusers takes each with its encoder).

    Raises:
      UserError: the name, the word or the array does not fit, or the file cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors.")
    if not token or token != token.strip() or any(letter.isspace() for letter in token):
        raise UserError(f"token {token!r} is not a single word; give something like '<my-style>', without spaces.")
    pair = isinstance(array, (tuple, list)) and len(array) == 2 and np.ndim(array[0]) >= 1
    arrays: dict[str, ArrayLike] = dict(zip(_XL_NAMES, array, strict=True)) if pair else {token: array}  # type: ignore[arg-type, dict-item]
    tensors = {}
    for name, value in arrays.items():
        vectors = np.ascontiguousarray(np.asarray(value), np.float32)
        if vectors.ndim not in (1, 2) or vectors.size == 0:
            raise UserError(f"the embedding {name} has shape {list(vectors.shape)}; expected [d] or [k, d].")
        if not np.isfinite(vectors).all():
            raise UserError(f"the embedding {name} holds NaN or infinity, so {path} was not written.")
        tensors[name] = vectors
    save_tensors(path, tensors)
