"""LoRA files, learned words, another autoencoder and tokenizer from a config: what `generate` draws, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bridgejax.cli import main
from bridgejax.diffusion import load_pipeline
from bridgejax.synthesis import open_set
from tests import original_files as originals

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def changes(tmp_path_factory: pytest.TempPathFactory, tiny_generator: Path) -> Path:
    """A folder with a LoRA, a word of two vectors, and another generator's autoencoder, for the tiny generator."""
    root = tmp_path_factory.mktemp("changes")
    rng = np.random.default_rng(0)
    lora = {f"unet.{LAYER}.lora_A.weight": (2, 16), f"unet.{LAYER}.lora_B.weight": (16, 2)}
    save_file({name: rng.normal(size=shape).astype(np.float32) for name, shape in lora.items()}, root / "style.safetensors")
    save_file({"<bird>": rng.normal(size=(2, 32)).astype(np.float32)}, root / "word.safetensors")
    pipe = load_pipeline(tiny_generator)
    pipe.networks.vae.decoder.conv_out.bias[...] += 0.25
    pipe.save(root / "other")
    return root


def _generate(config_file: Path, workdir: Path, *changed: str) -> int:
    few = ["--config.synthetic.per_class=1", "--config.synthetic.shard_size=3", "--config.prompts.template=a {} <bird>"]
    return main(["generate", "--config", str(config_file), "--workdir", str(workdir), *few, *changed])


def test_generate_draws_with_all_that_the_config_names(config_file: Path, tiny_generator: Path, changes: Path, tmp_path: Path):
    changed = [
        f"--config.generator.loras=(('{changes / 'style.safetensors'}', 0.5),)",
        f"--config.generator.words=<bird>={changes / 'word.safetensors'}",
        f"--config.generator.vae={changes / 'other'}",
    ]
    assert _generate(config_file, tmp_path / "work", *changed) == 0
    pipe = load_pipeline(
        tiny_generator,
        loras=[(changes / "style.safetensors", 0.5)],
        embeddings={"<bird>": changes / "word.safetensors"},
        vae=changes / "other",
    )
    made = open_set(tmp_path / "work" / "synthetic")
    rows = list(made)
    assert len(rows) == 3
    expected = pipe([row["prompt"] for row in rows], seeds=[row["seed"] for row in rows], steps=2, guidance_scale=2.0)
    for row, image in zip(rows, np.asarray(expected), strict=True):
        assert row["generator"] == pipe.digest
        assert np.abs(np.asarray(row["image"], np.float32) / 255 - image).max() < 1 / 255


@pytest.mark.parametrize("key", ["loras", "words", "vae"])
def test_each_change_makes_another_set(config_file: Path, changes: Path, tmp_path: Path, capfd, key: str):
    value = {
        "loras": changes / "style.safetensors",
        "words": f"<bird>={changes / 'word.safetensors'}",
        "vae": changes / "other",
    }
    assert _generate(config_file, tmp_path / "plain") == 0
    assert _generate(config_file, tmp_path / "work", f"--config.generator.{key}={value[key]}") == 0
    images = [[row["image"] for row in open_set(tmp_path / name / "synthetic")] for name in ("plain", "work")]
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(*images, strict=True))
    # The same folder under another config is refused, and so is its set under another generator.
    assert _generate(config_file, tmp_path / "plain", f"--config.generator.{key}={value[key]}") == 2
    assert f"generator.{key}" in capfd.readouterr().err
    shutil.copy(tmp_path / "work" / "config.json", tmp_path / "plain" / "config.json")
    assert _generate(config_file, tmp_path / "plain", f"--config.generator.{key}={value[key]}") == 2
    assert "holds another" in capfd.readouterr().err


def test_a_single_file_takes_its_tokenizer_from_the_config(config_file: Path, tmp_path: Path):
    file = originals.write_single_file(tmp_path, "sd1")
    (tmp_path / "tokenizer").rename(tmp_path / "words")
    options = [f"--config.generator.{key}" for key in ("height=16", "width=16", f"tokenizer={tmp_path / 'words'}")]
    assert _generate(config_file, tmp_path / "work", f"--config.generator.weights={file}", *options) == 0
    digests = {row["generator"] for row in open_set(tmp_path / "work" / "synthetic")}
    assert digests == {load_pipeline(file, tokenizer=tmp_path / "words").digest}


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("loras", "/no/such.safetensors", "/no/such.safetensors"),
        ("loras", "('style.safetensors', 0.5)", "style.safetensors is missing"),
        ("loras", "style.safetensors:much", "'much'"),
        ("loras", "(('style.safetensors', 'much'),)", "generator.loras"),
        ("words", "word.safetensors", "WORD=PATH"),
        ("words", "{'<bird>': 'word.safetensors'}", "generator.words"),
        ("words", "(('<bird>', 3),)", "generator.words"),
        ("words", "<bird>=/no/such.safetensors", "/no/such.safetensors"),
        ("words", "<bird>=a.safetensors,<bird>=b.safetensors", "twice"),
        ("vae", "/no/such", "/no/such"),
        ("tokenizer", "/no/such", "tokenizer"),
        ("prediction_type", "velocity", "velocity"),
    ],
)
def test_wrong_changes_are_told(config_file: Path, tmp_path: Path, capfd, key: str, value: str, told: str):
    assert _generate(config_file, tmp_path / "work", f"--config.generator.{key}={value}") == 2
    errors = capfd.readouterr().err
    assert told in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "work").exists()
