"""The program that rebuilds the embedded CLIP: names, views, the loss, and what a small run learns."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))


def test_names_are_said_as_a_person_would_say_them() -> None:
    from tiny_clip_pictures import known_words, plain_name

    assert plain_name("Smiling Face with Sunglasses") == "smiling sunglasses"
    assert plain_name("Woman’s Hat (old)") == "woman s hat"
    records: list[dict[str, object]] = [
        {"name": "Red Apple", "subcategory": "food-fruit"},
        {"name": "Chad Flag", "subcategory": "country-flag"},
    ]
    words = known_words(records, {"people/clothing/hats": "hat", "office": "office supply"})
    assert {"apple", "office", "supply"} <= words
    assert not {"red", "chad", "hat"} & words  # a colour, a country, too short


def test_a_view_depends_on_its_generator_alone() -> None:
    from tiny_clip_pictures import SIDE, view

    picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
    picture[40:90, 30:100] = (200, 30, 30)
    first, again, other = (view(picture, 96, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.shape == (96, 96, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_loss_sets_each_true_pair_against_all_that_is_not_true() -> None:
    from train_tiny_clip import agreement

    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    right = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0]], bool)
    logits = 2.0 * images @ texts.T

    def one_way(logits: np.ndarray, right: np.ndarray) -> float:
        rows = []
        for values, true in zip(logits, right, strict=True):
            wrong = np.exp(values[~true]).sum()
            if true.any():
                rows.append(np.mean([np.log(wrong + np.exp(value)) - value for value in values[true]]))
        return float(np.mean(rows))

    expected = one_way(logits, right) + 0.5 * one_way(logits.T, right.T)
    found = agreement(jnp.asarray(images, jnp.float32), jnp.asarray(texts, jnp.float32), jnp.float32(2.0), jnp.asarray(right))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_a_small_run_learns_which_name_goes_with_which_picture() -> None:
    from clipart_captions import Tokenizer
    from tiny_clip_pictures import Pictures
    from train_tiny_clip import make_concepts, train, unit

    rng = np.random.default_rng(0)
    groups = np.array(["bird", "fish", "hat"] * 8)
    pictures = Pictures(np.zeros((24, 1, 1, 3), np.uint8), groups, np.array(["duck", "shark", "hat"] * 8), groups)
    centres = rng.normal(size=(3, 16))
    features = np.tile(centres, (8, 1)) + 0.1 * rng.normal(size=(24, 16))
    concepts = make_concepts(pictures, {"kinds": {"animal": ["bird", "fish"]}, "synonyms": {"bird": ["fowl"]}}, seed=0)
    assert concepts.groups == ["bird", "fish", "hat"]
    assert concepts.of_picture[0].tolist() == [0, 3, 5]
    assert any("fowl" in caption for caption in concepts.captions[0])
    tokenizer = Tokenizer.train([caption for row in concepts.captions for caption in row], 60)
    size = len(tokenizer.vocabulary)
    config = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"projection_dim": 8, "vocab_size": size, "eos_token_id": size - 1, "max_position_embeddings": 77}
    rates = {"learning_rate": 3e-2, "weight_decay": 0.0, "dropout": 0.0}
    options = argparse.Namespace(**rates, seed=0, steps=60, batch_size=24, share=0.7, names=4)
    owners = np.arange(24, dtype=np.int32)
    trained = train(
        features.astype(np.float16), owners, np.ones(24, bool), ["bird", "fish"], concepts, tokenizer, config, options
    )

    from flax import nnx

    from bridgejax.models.clip_text import CLIPTextModel

    graph = nnx.split(nnx.eval_shape(lambda: CLIPTextModel(config, projection=True, rngs=nnx.Rngs(0))))[0]
    ids = jnp.asarray([tokenizer.encode(text) for text in ("a photo of a duck", "a photo of a fish", "a hat")])
    texts = unit(nnx.merge(graph, trained.text)(ids).pooled)
    said = (unit(centres @ trained.kernel + trained.bias) @ texts.T).argmax(1)
    assert said.tolist() == [0, 1, 2]
