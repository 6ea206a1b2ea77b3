"""`load_language_model`: texts that depend on their own text and seed, and folders that cannot be read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bridgejax.config import PromptSettings
from bridgejax.errors import UserError
from bridgejax.prompts import load_language_model
from bridgejax.prompts.decoding import decode
from bridgejax.prompts.language_enhancement import T5Writer, plan_sentences
from bridgejax.prompts.language_model import LanguageModel
from tests.small_language_model import V1_1, write_language_model

TEXTS = [
    "a red bird",
    "the old dog near the river",
    "sky",
    "a boat on the river and the house under the old tree near a dog and",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(write_language_model(tmp_path_factory.mktemp("t5"), **V1_1))


@pytest.mark.parametrize("options", [{}, {"temperature": 1.3, "top_k": 40, "top_p": 0.9}])
def test_a_text_depends_on_its_own_text_and_seed_alone(model: LanguageModel, options: dict[str, float]):
    texts, seeds = [TEXTS[i % 4] for i in range(20)], [*range(18), 3, -1]
    together = model.generate(texts, seeds=seeds, max_tokens=12, **options)
    order = np.random.default_rng(0).permutation(20)
    mixed = model.generate([texts[i] for i in order], seeds=[seeds[i] for i in order], max_tokens=12, **options)
    assert mixed == [together[i] for i in order]
    for rows in ([3], [18, 19, 0, 5]):
        alone = model.generate([texts[i] for i in rows], seeds=[seeds[i] for i in rows], max_tokens=12, **options)
        assert alone == [together[i] for i in rows]
    assert len(set(together)) > 15


def test_more_tokens_go_on_where_fewer_end_and_one_seed_gives_one_text(model: LanguageModel):
    short, long = (model.generate(TEXTS[:3] * 2, seeds=[1] * 6, max_tokens=count) for count in (4, 16))
    assert long[:3] == long[3:]
    # A text can end within a word, whose letters are tokens of their own.
    assert all(whole.startswith(start) for whole, start in zip(long, short, strict=True))
    assert short != long
    assert model.generate([], seeds=[]) == []


def test_greedy_has_no_chance_in_it_and_low_temperature_comes_near_it(model: LanguageModel):
    greedy = model.generate(TEXTS[:3], seeds=[1, 2, 3], top_k=1)
    assert greedy == model.generate(TEXTS[:3], seeds=[5, 6, 7], top_k=1)
    assert greedy == model.generate(TEXTS[:3], seeds=[5, 6, 7], temperature=1e-4)
    assert greedy == model.generate(TEXTS[:3], seeds=[5, 6, 7], top_p=1e-6)
    assert greedy != model.generate(TEXTS[:3], seeds=[5, 6, 7])


def test_one_program_serves_a_bucket_of_shapes(model: LanguageModel):
    model.generate(TEXTS[:3], seeds=[0, 1, 2], max_tokens=9)
    before = decode._cache_size()
    model.generate(["the dog", "a", "in the sky"], seeds=[4, 5, 6], max_tokens=16, temperature=0.5, top_p=0.7, top_k=40)
    model.generate(["boat"] * 4, seeds=range(4), max_tokens=3, top_k=33)
    assert decode._cache_size() == before


def test_sampling_follows_the_model(model: LanguageModel):
    """The first tokens of many seeds come up as often as the model says."""
    counts = np.zeros(model.model.config.vocab_size)
    ids = model.tokenizer.encode(["a bird"])
    chance = np.asarray(np.exp(model.logits(ids, [[0]])[0, 0]), np.float64)
    for text in model.generate(["a bird"] * 2000, seeds=range(2000), max_tokens=1, top_k=0):
        counts[model.tokenizer.encode([text])[0][0]] += 1
    chance /= chance.sum()
    words = [i for i in range(4, len(counts) - 30) if chance[i] > 0.01]  # whole words: they encode as the token drawn
    assert len(words) > 5
    for token in words:
        assert abs(counts[token] / 2000 - chance[token]) < 5 * np.sqrt(chance[token] / 2000)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seeds": [1]}, "there are 1 seeds for 2 texts"),
        ({"seeds": [1, 1 << 70]}, "at most 64 bits"),
        ({"seeds": [1, 2.5]}, r"seed 2\.5 is not an integer"),
        ({"seeds": ["one", 2]}, "seed 'one' is not an integer"),
        ({"seeds": [1, None]}, "seed None is not an integer"),
        ({"temperature": "hot"}, "temperature is 'hot'; give a number"),
        ({"top_p": None}, "top_p is None; give a number"),
        ({"texts": None}, "texts is None; give a list of strings"),
        ({"temperature": 0.0}, r"temperature is 0\.0; give a number above 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 1.5}, r"top_p is 1\.5"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"texts": ["a", 3]}, "text 3 is not a string"),
    ],
)
def test_wrong_arguments_are_told(model: LanguageModel, options: dict[str, object], told: str):
    with pytest.raises(UserError, match=told):
        model.generate(**{"texts": ["a", "b"], "seeds": [0, 1], **options})


def test_ids_outside_the_vocabulary_are_told(model: LanguageModel):
    with pytest.raises(UserError, match="input_ids holds ids outside the vocabulary"):
        model.logits([[5000]], [[0]])
    with pytest.raises(UserError, match="one row per text in both"):
        model.logits([[1], [2]], [[0]])
    with pytest.raises(UserError, match="differ in length; pad them"):
        model.logits([[1], [2, 3]], [[0], [0]])


def _without(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")


def _config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


BREAKS = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing; a T5 folder needs"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no safetensors weights"),
    "a pickle": (lambda folder: (folder / "model.safetensors").rename(folder / "model.bin"), r"model\.bin is a pickle"),
    "a tensor missing": (
        lambda folder: _without(folder, "decoder.block.2.layer.1.EncDecAttention.q.weight"),
        r"1 tensors are missing \(decoder\.block\.2\.layer\.1\.EncDecAttention\.q\.weight\)",
    ),
    "no token table": (lambda folder: _without(folder, "shared.weight"), r"missing \(shared\.weight\)"),
    "another model": (lambda folder: _config(folder, model_type="bart"), "model_type = 'bart' is not supported, only 't5'"),
    "odd projection": (lambda folder: _config(folder, feed_forward_proj="relu-gated"), "feed_forward_proj = 'relu-gated'"),
    "odd sizes": (lambda folder: _config(folder, d_kv=0), "d_kv is 0"),
    "other sizes": (lambda folder: _config(folder, d_ff=64), "has shape .* but the config asks for"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_an_incomplete_folder_is_told(tmp_path: Path, name: str):
    folder = write_language_model(tmp_path / "t5")
    change, told = BREAKS[name]
    change(folder)
    with pytest.raises(UserError, match=told):
        load_language_model(folder)


def test_without_a_tokenizer_there_are_logits_but_no_texts(tmp_path: Path):
    folder = write_language_model(tmp_path / "t5")
    (folder / "tokenizer.json").unlink()
    model = load_language_model(folder)
    assert model.logits([[4, 5]], [[0]]).shape == (1, 1, model.model.config.vocab_size)
    with pytest.raises(UserError, match="holds no tokenizer"):
        model.generate(["a"], seeds=[0])


def test_two_token_tables_are_refused(tmp_path: Path):
    folder = write_language_model(tmp_path / "t5")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "decoder.embed_tokens.weight": tensors["shared.weight"] + 1}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"decoder\.embed_tokens\.weight is not shared\.weight"):
        load_language_model(folder)


def test_sentences_of_a_model_are_seeded_kept_and_go_on(tmp_path: Path, model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    prompts = PromptSettings(source=f"t5:{model.folder}", sentences=6, max_tokens=8)
    classes = ("bird", "old dog")

    def make(folder: str, seed: int = 0, **changes: object) -> dict[str, tuple[str, ...]]:
        plan = plan_sentences(dataclasses.replace(prompts, **changes), classes, seed)
        assert plan is not None
        return plan.make(tmp_path / folder)

    made = make("a")
    assert [len(set(made[name])) for name in classes] == [6, 6]
    assert make("b") == made
    assert make("b", seed=1)["bird"] != made["bird"]
    assert len(list((tmp_path / "b").iterdir())) == 2  # what is asked otherwise has a file of its own
    # Killed after the first class.
    draw = T5Writer.draw

    def killed(self: T5Writer, name: str, number: int, wanted: int) -> list[str]:
        if name == "old dog":
            raise KeyboardInterrupt
        return draw(self, name, number, wanted)

    monkeypatch.setattr(T5Writer, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        make("c")
    monkeypatch.setattr(T5Writer, "draw", lambda self, name, *rest: draw(self, name, *rest) if name == "old dog" else 1 / 0)
    assert make("c") == made
    with pytest.raises(UserError, match="has nothing of class name '日本', so it can write no sentence of it; rename"):
        plan_sentences(prompts, ("日本",), 0)
