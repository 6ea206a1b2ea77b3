"""`bridgejax import-weights`: a checked folder, whole or absent, that both libraries open."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bridgejax.cli import main
from bridgejax.diffusion import load_pipeline
from bridgejax.diffusion.find import find_generator
from bridgejax.diffusion.folder import read_folder
from bridgejax.identity import file_digest
from tests import original_files as originals

SIZE = {"height": 16, "width": 16}
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single SD 1.x file in half precision, with its tokenizer, a LoRA and a learned word beside it."""
    root = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    start = f"lora_unet_{LAYER.replace('.', '_')}"
    halves = {f"{start}.lora_down.weight": (2, 32), f"{start}.lora_up.weight": (32, 2)}
    lora = {name: rng.normal(size=shape).astype(np.float32) for name, shape in halves.items()}
    save_file(lora | {f"{start}.alpha": np.array(1, np.float32)}, root / "lora.safetensors")
    save_file({"<w>": rng.normal(size=(2, 64)).astype(np.float32)}, root / "word.safetensors")
    return originals.write_single_file(root, "sd1", np.float16)


def run(capfd: Any, *arguments: object) -> tuple[int, str, str]:
    code = main(["import-weights", *map(str, arguments)])
    out, errors = capfd.readouterr()
    return code, out, errors


def test_a_file_becomes_the_folder_of_the_same_generator(capfd, source: Path, tmp_path: Path) -> None:
    lora, word = source.with_name("lora.safetensors"), source.with_name("word.safetensors")
    output = tmp_path / "deep" / "model"
    code, out, errors = run(
        capfd, source, "--output", output, "--lora", f"{lora}:0.5", "--embedding", f"<w>={word}", "--dtype", "float32"
    )
    assert code == 0, errors
    ours = load_pipeline(output)
    assert out.splitlines() == [str(output), ours.digest]
    listed = dict(line.split("  ", 1)[::-1] for line in (output / "SHA256SUMS").read_text().splitlines())
    present = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert set(listed) == present - {"SHA256SUMS"}
    assert all(file_digest(output / name) == value for name, value in listed.items())
    direct = load_pipeline(source, loras=[(lora, 0.5)], embeddings={"<w>": word})
    images = [np.asarray(model(["a <w> cat"], seeds=[3], steps=2, **SIZE)) for model in (ours, direct)]
    np.testing.assert_allclose(*images, atol=1e-5)
    assert [path.name for path in output.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(("family", "dtype"), [("sd2", "bfloat16"), ("xl", None)])
def test_every_family_is_written_whole(capfd, tmp_path: Path, family: str, dtype: str | None) -> None:
    file = originals.write_single_file(tmp_path, family, np.float16)
    code, _, errors = run(capfd, file, "--output", tmp_path / "out", *(("--dtype", dtype) if dtype else ()))
    assert code == 0, errors
    written, read = read_folder(tmp_path / "out"), find_generator(file)
    for part, tensors in originals.random_parts(family).items():
        found = written.tensors(part)
        assert set(found) == set(tensors)
        for name, array in tensors.items():
            assert found[name].dtype.name == (dtype or "float16") or part == "vae"
            np.testing.assert_array_equal(found[name], array.astype(np.float16).astype(found[name].dtype))
    assert {**read.unet, "_class_name": "UNet2DConditionModel"} == written.unet


def test_a_folder_can_be_imported_again(capfd, tiny_generator: Path, tmp_path: Path) -> None:
    code, out, errors = run(capfd, tiny_generator, "--output", tmp_path / "again")
    assert code == 0, errors
    name = "unet/diffusion_pytorch_model.safetensors"
    for part, array in load_file(tiny_generator / name).items():
        np.testing.assert_array_equal(load_file(tmp_path / "again" / name)[part], array)
    assert out.splitlines()[1] == load_pipeline(tmp_path / "again").digest


def test_a_tensor_written_wrongly_is_found(capfd, tiny_generator: Path, tmp_path: Path, monkeypatch) -> None:
    from bridgejax.diffusion import folder, import_weights

    def save(target: Path, *arguments: Any, **options: Any) -> None:
        folder.save_folder(target, *arguments, **options)
        file = target / "vae" / "diffusion_pytorch_model.safetensors"
        tensors = {name: np.array(array) for name, array in load_file(file).items()}
        tensors["decoder.conv_in.bias"][0] += 1
        save_file(tensors, file)

    monkeypatch.setattr(import_weights, "save_folder", save)
    code, _, errors = run(capfd, tiny_generator, "--output", tmp_path / "out")
    assert code == 2
    assert "tensor decoder.conv_in.bias differs from its source" in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--lora", "{root}/absent.safetensors:1"), "absent.safetensors is missing"),
        (("--lora", "{root}/lora.safetensors:much"), "'much' is not a number"),
        (("--embedding", "word.safetensors"), "WORD=PATH"),
        (("--dtype", "float8"), "float8"),
        (("--tokenizer", "/nowhere"), "/nowhere holds no tokenizer"),
        (("--prediction-type", "velocity"), "prediction_type"),
        (("--model-config", "/nowhere.json"), "/nowhere.json is missing"),
    ],
)
def test_wrong_input_leaves_nothing(capfd, source: Path, tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    told = [argument.format(root=source.parent) for argument in arguments]
    code, _, errors = run(capfd, source, "--output", tmp_path / "out", *told)
    assert code == 2
    assert sentence in errors
    assert len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_bad_sources_and_outputs(capfd, source: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x02}q\x00.")
    for where, output, sentence in (
        (source, tmp_path / "full", "exists already"),
        (tmp_path / "x.ckpt", tmp_path / "out", "is a pickle"),
        (tmp_path / "absent", tmp_path / "out", "there is no generator folder"),
    ):
        code, _, errors = run(capfd, where, "--output", output)
        assert code == 2
        assert sentence in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parity
@pytest.mark.parametrize("family", originals.FAMILIES)
def test_diffusers_opens_what_was_written(capfd, tmp_path: Path, family: str) -> None:
    pytest.importorskip("torch")
    import torch
    from diffusers import DiffusionPipeline

    file = originals.write_single_file(tmp_path, family)
    folder = tmp_path / "out"
    assert run(capfd, file, "--output", folder)[0] == 0
    shutil.rmtree(tmp_path / "tokenizer")
    theirs = DiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    ours = load_pipeline(folder)
    prompts = ["a cat!", "two dogs, painted"]
    latents = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    expected = theirs(
        prompts,
        latents=torch.from_numpy(latents.transpose(0, 3, 1, 2).copy()),
        num_inference_steps=4,
        guidance_scale=3.0,
        output_type="np",
        **SIZE,
    ).images
    images = ours(prompts, latents=latents, steps=4, guidance_scale=3.0, **SIZE)
    np.testing.assert_allclose(images, expected, atol=2e-3)
    assert expected.std() > 0.01
