"""Prompts become the ids that transformers gives, whoever read the files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from bridgejax import disk_cache
from bridgejax.files import asset_folder
from bridgejax.models.tokenizer import Tokenizer, TokenizerSource

FOLDER = asset_folder("tiny_diffusion") / "tokenizer"
WORDS = [
    "a",
    "photo",
    "hedgehog's",
    "<cup>",
    "<cup>_1",
    "3",
    "12",
    "naïve",
    "CAFÉ",
    "犬",
    "!",
    "<|endoftext|>",
    "<|startoftext|>",
    "</w>",
]
texts = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join))


def theirs(source: TokenizerSource):
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(source.folder), **({"pad_token": "!"} if source.pad == "zero" else {}))
    for word in source.added:
        tokenizer.add_tokens(word)
    return tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The built-in tokenizer in the ways that folders are published."""
    root = tmp_path_factory.mktemp("tokenizers")
    found = {"old": FOLDER}
    fast = theirs(TokenizerSource(FOLDER))
    fast.save_pretrained(root / "one file")
    found["one file"] = root / "one file"
    shutil.copytree(root / "one file", root / "lengths")
    file = root / "lengths" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(content))
    found["lengths"] = root / "lengths"
    shutil.copytree(FOLDER, root / "zero")
    vocabulary = json.loads((root / "zero" / "vocab.json").read_text())
    first = next(token for token, number in vocabulary.items() if number == 0)
    assert first == "!"
    found["zero"] = root / "zero"
    return found


@pytest.mark.filterwarnings("ignore:the text encoder takes")
@pytest.mark.parametrize("kind", ["old", "one file", "lengths", "zero"])
@pytest.mark.parametrize("added", [(), ("<cup>",)])
def test_the_ids_of_transformers(folders: dict[str, Path], kind: str, added: tuple[str, ...]) -> None:
    source = TokenizerSource(folders[kind], added, "zero" if kind == "zero" else None)
    ours, original = Tokenizer(source, 16), theirs(source)
    assert (ours.size, ours.end_id) == (len(original), original.eos_token_id)

    @hypothesis.settings(max_examples=60, deadline=None)
    @hypothesis.given(st.lists(texts, min_size=1, max_size=3))
    def check(prompts: list[str]) -> None:
        want = original(prompts, padding="max_length", max_length=16, truncation=True)["input_ids"]
        np.testing.assert_array_equal(ours(prompts), want)

    check()


def test_what_was_read_is_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "tokenizer")
    disk_cache.use(tmp_path / "kept")
    try:
        want = Tokenizer(folder, 77)(["a red kite"])
        monkeypatch.setattr("bridgejax.models.tokenizer._published", lambda source: pytest.fail("read again"))
        np.testing.assert_array_equal(Tokenizer(folder, 77)(["a red kite"]), want)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "!"}))
        with pytest.raises(pytest.fail.Exception, match="read again"):
            Tokenizer(folder, 77)
    finally:
        disk_cache.use(None)
