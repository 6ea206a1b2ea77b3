"""T5 beside transformers on random weights: logits, token by token with the cache, greedy texts, filters, tokenizers."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridgejax.models.t5 import position_buckets
from bridgejax.prompts import load_language_model
from bridgejax.prompts.decoding import Filters, kept_tokens
from bridgejax.prompts.language_model import LanguageModel
from tests.small_language_model import CONFIG, PIECES, V1_1, write_language_model

pytestmark = pytest.mark.parity
TEXTS = ["a red bird", "the old dog near the river", "sky", "boat on the river and the house under a tree near a dog"]


@pytest.fixture(scope="module", params=["v1.0", "v1.1", "v1.0, whole layout"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A random model as transformers saved it, in both libraries."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    changes = V1_1 if request.param == "v1.1" else {}
    original = T5ForConditionalGeneration(T5Config(**{k: v for k, v in CONFIG.items() if k != "model_type"}, **changes)).eval()
    if request.param == "v1.1":
        original.lm_head.weight = torch.nn.Parameter(torch.randn_like(original.lm_head.weight))
        original.config.tie_word_embeddings = False
    original.save_pretrained(folder, max_shard_size="20KB" if request.param == "v1.1" else "1GB")
    write_language_model(folder / "ours")  # for its tokenizer
    (folder / "ours" / "tokenizer.json").rename(folder / "tokenizer.json")
    if request.param.endswith("layout"):
        _publish(folder)
    return original, load_language_model(folder)


def _publish(folder: Path) -> None:
    """Adds what the published files of v1.0 hold besides: copies of the token table, and a table that no model uses."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    shared = tensors.pop("shared.weight")
    copies = ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
    tensors |= {f"{name}.weight": shared.copy() for name in copies}
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    save_file({**tensors, unused: np.ones((8, 4), np.float32)}, folder / "model.safetensors")


def test_logits_equal_those_of_transformers_with_pads_masked(pair):
    import torch

    original, ours = pair
    rng = np.random.default_rng(0)
    ids, so_far = rng.integers(2, 50, (3, 40)), rng.integers(2, 50, (3, 45))
    ids[1, 9:], ids[2, 30:], so_far[:, 0] = 0, 0, 0
    with torch.no_grad():
        wanted = original(torch.tensor(ids), torch.tensor(ids != 0), torch.tensor(so_far)).logits.numpy()
    found = ours.logits(ids, so_far)
    assert found.dtype == jnp.float32
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_token_by_token_with_the_cache_gives_the_same_logits(pair):
    _, ours = pair
    rng = np.random.default_rng(1)
    ids, so_far = jnp.asarray(rng.integers(2, 50, (2, 7))), jnp.asarray(rng.integers(2, 50, (2, 9)))
    whole, model = ours.logits(ids, so_far), ours.model
    source, mask = model.encode(ids)
    cache, bias, steps = model.empty_cache(2, 16), model.decoder.bias(16), []  # a longer cache than tokens
    for place in range(9):
        step = slice(place, place + 1)
        logits, cache = model.decode(so_far[:, step], source, mask, cache, bias[:, :, step], jnp.int32(place))
        steps.append(logits)
    assert np.allclose(np.concatenate(steps, axis=1), whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())


def test_greedy_texts_equal_those_of_transformers(pair):
    original, ours = pair
    wanted = _generate(original, ours, do_sample=False)
    assert ours.generate(TEXTS, seeds=[5, 6, 7, 8], max_tokens=20, top_k=1) == wanted
    assert len(set(wanted)) > 1


def _generate(original, ours: LanguageModel, **options: object) -> list[str]:
    import torch

    rows = ours.tokenizer.encode(TEXTS)
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    for row, each in zip(ids, rows, strict=True):
        row[: len(each)] = torch.tensor(each)
    with torch.no_grad():
        # Its cache has the encoder's number of layers, too few for this decoder.
        out = original.generate(ids, attention_mask=ids != 0, max_new_tokens=20, use_cache=False, **options)
    return ours.tokenizer.decode(out.tolist())


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 50, 1.0), (0.7, 50, 0.9), (1.3, 7, 0.5), (1.0, 200, 0.3)])
def test_filters_keep_what_the_warpers_of_transformers_keep(temperature: float, top_k: int, top_p: float):
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = 3 * np.random.default_rng(0).normal(size=(16, 200)).astype(np.float32)
    wanted = torch.tensor(logits)
    for warper in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)):
        wanted = warper(None, wanted)
    filters = Filters(jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p))
    scores, ids = kept_tokens(jnp.asarray(logits), filters, most=200)
    found = np.full_like(logits, -np.inf)
    np.put_along_axis(found, np.asarray(ids), np.asarray(scores), axis=1)
    assert np.array_equal(np.isfinite(found), np.isfinite(wanted.numpy()))
    assert np.allclose(jax.nn.softmax(found), torch.softmax(wanted, -1), atol=1e-6)


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 20), (16, 64)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_positions_fall_into_the_same_buckets(buckets: int, distance: int, bidirectional: bool):
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    places = torch.arange(300)
    wanted = T5Attention._relative_position_bucket(places[None] - places[:, None], bidirectional, buckets, distance)
    assert np.array_equal(position_buckets(300, 300, bidirectional, buckets, distance), wanted.numpy())


def test_a_sentencepiece_file_reads_as_the_tokenizer_of_transformers(tmp_path: Path):
    from transformers import T5Tokenizer

    from bridgejax.prompts.text_tokenizer import TextTokenizer
    from tests.prompts.test_text_tokenizer import write_pieces

    write_pieces(tmp_path)
    ours, original = TextTokenizer(tmp_path), T5Tokenizer(vocab=PIECES)
    texts = [*TEXTS, "  spaces   and\ttabs ", "Überall qu'é", ""]
    assert ours.encode(texts) == [original(text).input_ids for text in texts]
    assert ours.decode(ours.encode(TEXTS)) == TEXTS
