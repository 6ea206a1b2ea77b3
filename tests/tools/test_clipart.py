"""The programs that rebuild the embedded generator: pictures, captions, checkpoints, resumption and the folder they write."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
ASSET = ROOT / "bridgejax/assets/tiny_diffusion"


@pytest.fixture(scope="module")
def words() -> dict:
    return json.loads((ROOT / "tools/clipart_words.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("animals/mammals/dogs/beagle_copper_ganson.png", ("mammal", "dog")),
        ("food/fruit/lemon_half_ganson.png", ("fruit", "lemon")),
        ("transportation/roadsigns/slippery.png", ("road sign", "road sign")),
        ("recreation/music/harp2_ganson.png", ("musical instrument", "harp")),
        ("recreation/music/bach_ganson.png", None),
        ("computer/icons/folder.png", None),
    ],
)
def test_openclipart_labels(words: dict, path: str, expected: tuple[str, str] | None) -> None:
    from build_clipart import label_openclipart

    assert label_openclipart(path, words) == expected


def test_pictures_are_cropped_composited_and_deduplicated(tmp_path: Path) -> None:
    from build_clipart import deduplicate, fingerprint, is_drawing_of_lines, load_square

    picture = np.zeros((200, 300, 4), np.uint8)
    picture[60:140, 100:260] = (220, 30, 40, 255)
    Image.fromarray(picture).save(tmp_path / "red.png")
    image = load_square(tmp_path / "red.png")
    assert image is not None
    assert image.shape == (64, 64, 3)
    assert (image[0] == 255).all()  # transparent pixels are white, not black
    red = (image[..., 0] > 200) & (image[..., 1] < 60)
    assert red.any(0).sum() > 56  # the content fills the width
    assert not is_drawing_of_lines(image)
    outline = np.full((64, 64, 3), 255, np.uint8)
    outline[10:54, 10:54] = 0
    outline[12:52, 12:52] = 255
    assert is_drawing_of_lines(outline)
    prints = np.stack([fingerprint(image), fingerprint(outline), fingerprint(image)])
    assert list(deduplicate(prints)) == [0, 1]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert load_square(tmp_path / "broken.png") is None


def test_vocabulary_agrees_with_transformers(tmp_path: Path) -> None:
    from clipart_captions import Tokenizer, training_texts
    from transformers import CLIPTokenizer

    tokenizer = Tokenizer.train(training_texts(["bird", "road sign"], ["parrot", "stop sign"]))
    tokenizer.save(tmp_path)
    published = CLIPTokenizer.from_pretrained(str(tmp_path))
    for text in ("", "a photo of a bird", "A Parrot, a BIRD!", "naïve 鸟 — it's 42 <b>", "word " * 100):
        ids = published(text, padding="max_length", max_length=77, truncation=True)["input_ids"]
        assert tokenizer.encode(text) == ids


def test_captions_name_the_colours_that_a_picture_has() -> None:
    from clipart_captions import colours_of, sentence_choices

    picture = np.full((8, 8, 3), 255, np.uint8)
    assert colours_of(picture) == "white"
    picture[:4] = (210, 20, 20)
    assert colours_of(picture) == "red"
    picture[4:7] = (40, 160, 40)
    assert colours_of(picture) == "red and green"
    by_class, by_noun = sentence_choices("fruit", "apple", "red", 0)
    assert all(caption.startswith("a fruit, red, ") for caption in by_class)
    assert all("apple" in caption and "fruit" in caption and "red" in caption for caption in by_noun)


@pytest.mark.slow
def test_a_killed_training_continues_as_if_nothing_had_happened(tmp_path: Path) -> None:
    import jax
    import jax.numpy as jnp
    from clipart_unet import TEXT_CONFIG, UNET_CONFIG, TrainingSet, UNetOptions, train_unet

    unet = {
        **UNET_CONFIG,
        "block_out_channels": [8, 8],
        "attention_head_dim": 1,
        "cross_attention_dim": 8,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    }
    text = {**TEXT_CONFIG, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text |= {"vocab_size": 6, "eos_token_id": 5, "bos_token_id": 4}
    rng = np.random.default_rng(0)
    data = TrainingSet(
        latents=jnp.asarray(rng.normal(size=(4, 8, 8, 4)), jnp.float32),
        variants=jnp.asarray([[0, 1], [2, 3]]),
        rows=jnp.asarray([[0], [1]]),
        counts=jnp.asarray([1, 1]),
        tokens=jnp.full((3, 77), 5),
        class_captions=jnp.asarray([[1], [2]]),
        noun_captions=jnp.asarray([[1], [2]]),
    )
    options = UNetOptions(steps=4, minutes=0, batch_size=2, learning_rate=1e-2, seed=0, sheet_every=0.0, save_every=0.0)

    def die_at_two(_: object, step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = train_unet(data, text, tmp_path / "whole", options, lambda *_: None, unet)
    with pytest.raises(KeyboardInterrupt):
        train_unet(data, text, tmp_path / "killed", options, die_at_two, unet)
    resumed = train_unet(data, text, tmp_path / "killed", options, lambda *_: None, unet)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    from clipart_state import load_state, save_state

    save_state(tmp_path / "state.npz", {"a": np.zeros(3), "step": np.int32(1)})
    assert load_state(tmp_path / "none.npz", {}) is None
    loaded = load_state(tmp_path / "state.npz", {"a": np.ones(3), "step": np.int32(0)})
    assert int(loaded["step"]) == 1
    with pytest.raises(SystemExit, match="another configuration"):
        load_state(tmp_path / "state.npz", {"a": np.ones(4), "step": np.int32(0)})


def test_asset_is_whole_and_small() -> None:
    lines = (ASSET / "SHA256SUMS").read_text(encoding="utf-8").split("\n")
    listed = {line.split("  ")[1]: line.split("  ")[0] for line in lines if line}
    files = {p.relative_to(ASSET).as_posix(): p for p in ASSET.rglob("*") if p.is_file() and p.name != "SHA256SUMS"}
    assert set(listed) == set(files)
    assert {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in files.items()} == listed
    assert sum(p.stat().st_size for p in files.values()) <= 24 * 2**20
    assert {"LICENSE", "PROVENANCE.md", "model_index.json"} <= set(files)


def test_asset_draws_what_it_is_asked_for() -> None:
    from bridgejax.diffusion import load_pipeline

    pipe = load_pipeline("builtin:tiny_diffusion", dtype="float32")
    prompts = ["a photo of a tomato, a vegetable", "a photo of a banana, a fruit"]
    images = np.asarray(pipe(prompts * 3, seeds=list(range(6)), steps=8, guidance_scale=3.0))
    assert images.shape == (6, 64, 64, 3)
    assert (images[:, :2].mean((1, 2, 3)) > 0.9).all()  # the background is white
    content = images.min(-1) < 0.8
    colours = np.stack([image[mask].mean(0) for image, mask in zip(images, content, strict=True)])
    green_share = (colours[:, 1] / colours[:, 0]).reshape(3, 2).mean(0)
    assert green_share[0] < green_share[1]  # tomatoes are red, bananas yellow
