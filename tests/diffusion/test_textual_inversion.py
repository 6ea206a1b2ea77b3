"""Learned words: appended to vocabularies, expanded in prompts, saved, refused, and the same as in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bridgejax.diffusion import load_pipeline
from bridgejax.diffusion.textual_inversion import save_embedding
from bridgejax.errors import UserError
from tests import original_files as originals

STYLE = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)


@pytest.fixture
def style(tmp_path: Path) -> Path:
    """A word of three vectors."""
    save_embedding(tmp_path / "style.safetensors", "<style>", STYLE)
    return tmp_path / "style.safetensors"


def test_a_word_becomes_rows_and_tokens(tiny_folder: Path, style: Path, pipe: Any) -> None:
    model = load_pipeline(tiny_folder, embeddings={"<style>": style})
    table = np.asarray(model.networks.text_encoders[0].embeddings.token_embedding.embedding[...])
    assert table.shape == (514 + 3, 32)
    np.testing.assert_array_equal(table[514:], STYLE)
    ids = model.tokenizers[0](["a <style> cat"])[0]
    assert list(ids[2:5]) == [514, 515, 516]
    np.testing.assert_array_equal(model.tokenizers[0](["a cat"]), pipe.tokenizers[0](["a cat"]))
    np.testing.assert_allclose(model.encode_prompts("a cat")[0], pipe.encode_prompts("a cat")[0], atol=1e-5)
    assert np.abs(np.asarray(model.encode_prompts("<style>")[0] - pipe.encode_prompts("<style>")[0])).max() > 0.1
    assert model.digest != pipe.digest


def test_a_saved_generator_keeps_its_words(tiny_folder: Path, style: Path, tmp_path: Path) -> None:
    model = load_pipeline(tiny_folder, embeddings={"<style>": style})
    model.save(tmp_path / "saved")
    again = load_pipeline(tmp_path / "saved")
    prompts = ["a <style> cat", "a cat"]
    np.testing.assert_array_equal(again.tokenizers[0](prompts), model.tokenizers[0](prompts))
    np.testing.assert_array_equal(again.encode_prompts(prompts)[0], model.encode_prompts(prompts)[0])


def test_other_layouts_of_the_file(tiny_folder: Path, tmp_path: Path) -> None:
    save_file({"emb_params": STYLE.astype(np.float16)}, tmp_path / "a1111.safetensors")
    save_file({"<else>": STYLE[0]}, tmp_path / "flat.safetensors")
    model = load_pipeline(tiny_folder, embeddings={"<a>": tmp_path / "a1111.safetensors", "<b>": tmp_path / "flat.safetensors"})
    assert list(model.tokenizers[0](["<b> <a>"])[0][1:5]) == [517, 514, 515, 516]
    table = np.asarray(model.networks.text_encoders[0].embeddings.token_embedding.embedding[...])
    np.testing.assert_allclose(table[514:], [*STYLE, STYLE[0]], rtol=1e-3, atol=1e-4)


def test_sdxl_words_have_a_vector_for_each_encoder(tmp_path: Path) -> None:
    file = originals.write_single_file(tmp_path, "xl")
    rng = np.random.default_rng(1)
    pair = [rng.normal(size=(2, 64)).astype(np.float32) for _ in range(2)]
    save_embedding(tmp_path / "pair.safetensors", "<s>", tuple(pair))
    assert set(load_file(tmp_path / "pair.safetensors")) == {"clip_l", "clip_g"}
    model = load_pipeline(file, embeddings={"<s>": tmp_path / "pair.safetensors"})
    for encoder, vectors in zip(model.networks.text_encoders, pair, strict=True):
        np.testing.assert_array_equal(np.asarray(encoder.embeddings.token_embedding.embedding[...])[514:], vectors)
    save_embedding(tmp_path / "one.safetensors", "<s>", pair[0])
    with pytest.raises(UserError, match=r"holds one tensor, but the generator has two text encoders"):
        load_pipeline(file, embeddings={"<s>": tmp_path / "one.safetensors"})


def test_what_does_not_fit_is_named(tiny_folder: Path, style: Path, tmp_path: Path) -> None:
    save_embedding(tmp_path / "wide.safetensors", "<w>", np.zeros((1, 768)))
    save_file({"a": STYLE, "b": STYLE, "c": STYLE}, tmp_path / "three.safetensors")
    save_file({"<i>": np.zeros((1, 32), np.int32)}, tmp_path / "integers.safetensors")
    save_file({"<n>": np.full((1, 32), np.nan, np.float32)}, tmp_path / "nan.safetensors")
    save_file({"clip_l": STYLE, "clip_g": STYLE}, tmp_path / "pair.safetensors")
    (tmp_path / "x.pt").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "cut.safetensors").write_bytes(style.read_bytes()[:-8])
    for word, file, sentence in (
        ("a", style, "'a' is in the vocabulary"),
        ("<|endoftext|>", style, "is in the vocabulary"),
        ("two words", style, "is not a single word"),
        ("<w>", "wide.safetensors", r"shape \[1, 768\].*32 numbers.*another base"),
        ("<w>", "three.safetensors", "holds 3 tensors"),
        ("<w>", "integers.safetensors", "dtype int32"),
        ("<w>", "nan.safetensors", "NaN"),
        ("<w>", "pair.safetensors", "but the generator has one text encoder"),
        ("<w>", "x.pt", "is a pickle"),
        ("<w>", "cut.safetensors", "cut short"),
        ("<w>", "absent.safetensors", "is missing"),
    ):
        with pytest.raises(UserError, match=sentence):
            load_pipeline(tiny_folder, embeddings={word: tmp_path / file})
    with pytest.raises(UserError, match="'<s>_1' is in the vocabulary"):
        load_pipeline(tiny_folder, embeddings={"<s>": style, "<s>_1": style})


def test_a_bad_embedding_is_not_written(tmp_path: Path) -> None:
    for name, token, array, sentence in (
        ("x.pt", "<t>", STYLE, "must end in .safetensors"),
        ("x.safetensors", "a b", STYLE, "is not a single word"),
        ("x.safetensors", "<t>", np.zeros((1, 2, 3)), "expected .d. or .k, d."),
        ("x.safetensors", "<t>", [np.nan], "NaN"),
    ):
        with pytest.raises(UserError, match=sentence):
            save_embedding(tmp_path / name, token, array)
    assert not list(tmp_path.iterdir())


@pytest.mark.parity
def test_the_same_tokens_and_texts_as_in_diffusers(tiny_folder: Path, style: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline

    save_embedding(tmp_path / "one.safetensors", "<Dog>", STYLE[0])
    theirs = StableDiffusionPipeline.from_pretrained(tiny_folder)
    theirs.load_textual_inversion(str(style))
    theirs.load_textual_inversion(str(tmp_path / "one.safetensors"))
    ours = load_pipeline(tiny_folder, embeddings={"<style>": style, "<Dog>": tmp_path / "one.safetensors"})
    prompts = ["a <style> cat", "<style>, twice <style>", "a <Dog> in <style>", "no word"]
    converted = theirs.maybe_convert_prompt(prompts, theirs.tokenizer)
    ids = theirs.tokenizer(converted, padding="max_length", max_length=77, truncation=True).input_ids
    np.testing.assert_array_equal(ours.tokenizers[0](prompts), ids)
    with torch.no_grad():
        expected = theirs.encode_prompt(prompts, "cpu", 1, False)[0].numpy()
    np.testing.assert_allclose(ours.encode_prompts(prompts)[0], expected, atol=1e-4 * np.abs(expected).max())
