"""Words learned as embeddings (textual inversion, Gal et al. 2022, arXiv:2208.01618): read, appended, written.

A file holds one or more vectors per text encoder: `{token: [d] or [k, d]}` (diffusers), `emb_params` (A1111), or `clip_l`
and `clip_g` for the two encoders of SDXL. A word of k vectors becomes k tokens, `<t>`, `<t>_1`, …, and the tokenizer writes
`<t>` out as all of them, as diffusers does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from bridgejax.diffusion.lora import weights_file
from bridgejax.errors import UserError
from bridgejax.files import JSONObject, expanded
from bridgejax.models.safetensors_files import read_tensors, save_tensors
from bridgejax.models.tokenizer import Tokenizer, TokenizerSource

_XL_NAMES = ("clip_l", "clip_g")


def read_embedding(path: Path, widths: Sequence[int]) -> list[np.ndarray]:
    """Reads the vectors of one word.

    Args:
      path: a safetensors file, or a folder with `learned_embeds.safetensors`.
      widths: of the generator's text encoders.

    Returns:
      float32 [k, width] for each text encoder, k ≥ 1 and the same for all.

    Raises:
      UserError: the file is missing, damaged, a pickle, of another kind, or for another text encoder; it is named.
    """
    file = weights_file(path, "textual-inversion embedding", ("learned_embeds.safetensors",))
    content = read_tensors(file)
    pair = set(content) == set(_XL_NAMES)
    if not pair and len(content) != 1:
        raise UserError(
            f"{file} holds {len(content)} tensors ({', '.join(sorted(content)[:3])}{'…' * (len(content) > 3)}), so it is "
            "not a textual-inversion embedding; expected one tensor, or clip_l and clip_g."
        )
    if pair != (len(widths) == 2):
        holds, wants = ("clip_l and clip_g (SDXL)", "one text encoder") if pair else ("one tensor", "two text encoders (SDXL)")
        raise UserError(f"{file} holds {holds}, but the generator has {wants}; it is an embedding for another base.")
    rows = []
    for name, width in zip(_XL_NAMES if pair else content, widths, strict=True):
        array = content[name]
        if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
            raise UserError(
                f"{file}: tensor {name} has dtype {array.dtype}; an embedding must be float32, float16 or bfloat16."
            )
        vectors = array.astype(np.float32)
        vectors = vectors[None] if vectors.ndim == 1 else vectors
        if vectors.ndim != 2 or vectors.shape[0] < 1 or vectors.shape[1] != width:
            raise UserError(
                f"{file}: tensor {name} has shape {list(array.shape)}, but the text encoder's vectors have {width} numbers; "
                "it is an embedding for another base."
            )
        if not np.isfinite(vectors).all():
            raise UserError(f"{file}: tensor {name} holds NaN or infinity; the file is damaged, get it again.")
        rows.append(vectors)
    if len({len(vectors) for vectors in rows}) != 1:
        raise UserError(f"{file}: clip_l has {len(rows[0])} vectors and clip_g {len(rows[1])}; they must be as many.")
    return rows


def extend_vocabulary(
    sources: Sequence[TokenizerSource],
    tables: Sequence[np.ndarray],
    configs: Sequence[JSONObject],
    embeddings: Mapping[str, Path],
) -> tuple[tuple[TokenizerSource, ...], list[np.ndarray], tuple[JSONObject, ...]]:
    """Appends words to tokenizers and to the token tables of text encoders.

    Args:
      sources: one tokenizer per text encoder.
      tables: their token embeddings, [vocabulary, width].
      configs: their `config.json`.
      embeddings: word → file.

    Returns:
      Sources with the words added; tables with their rows, in the tables' dtype; configs with the new size of the vocabulary.
      A config of old that marks the end of a prompt as "the largest id" (`eos_token_id` 2) gets the id itself, since added
      words have larger ones.

    Raises:
      UserError: a word stands in a vocabulary already, or is not a single word; a file does not fit.
    """
    tokenizers = [Tokenizer(source, 77) for source in sources]
    read: list[tuple[list[str], list[np.ndarray]]] = []
    taken: set[str] = set()
    for word, path in embeddings.items():
        if not isinstance(word, str) or not word or word != word.strip() or any(letter.isspace() for letter in word):
            raise UserError(f"embeddings: {word!r} is not a single word; give something like '<my-style>', without spaces.")
        vectors = read_embedding(expanded(path), [table.shape[1] for table in tables])
        words = [word, *(f"{word}_{i}" for i in range(1, len(vectors[0])))]
        # `<t>_1` would make `<t>` a word of two vectors, even where `<t>` has one.
        for name in {*words, f"{word}_1", word.lower()}:
            if name in taken or any(tokenizer.id_of(name) is not None for tokenizer in tokenizers):
                raise UserError(
                    f"embeddings: {word!r} cannot be added, since {name!r} is in the vocabulary; choose another word."
                )
        taken |= set(words)
        read.append((words, vectors))

    added = tuple(name for words, _ in read for name in words)
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
