"""The autoencoder in slices and in tiles, and another one in its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bridgejax.diffusion import load_pipeline
from bridgejax.diffusion.networks import tiled
from bridgejax.errors import UserError
from bridgejax.models.safetensors_files import save_tensors
from bridgejax.models.vae_tiny import VAE_TINY_RULES, AutoencoderTiny
from bridgejax.models.weights import export

TINY: dict[str, Any] = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
}


def write_tiny_vae(folder: Path, **change: Any) -> Path:
    """Writes a random tiny autoencoder by itself: config.json and weights."""
    config = {**TINY, **change}
    folder.mkdir(parents=True)
    graph, state = nnx.split(nnx.eval_shape(lambda: AutoencoderTiny(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(4)
    filled = {
        path: leaf.replace(jnp.asarray(rng.normal(0, 0.2, leaf.get_value().shape), jnp.float32))
        for path, leaf in nnx.to_flat_state(state)
    }
    (folder / "config.json").write_text(json.dumps(config))
    model = nnx.merge(graph, nnx.from_flat_state(filled))
    save_tensors(folder / "diffusion_pytorch_model.safetensors", export(model, VAE_TINY_RULES))
    return folder


def latents_of(n: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, height, width, 4)).astype(np.float32)


@pytest.mark.parametrize(("size", "parts"), [(1, 1), (2, 1), (2, 3), (7, 1)])
def test_slices_change_nothing(pipe, tiny_folder: Path, size: int, parts: int) -> None:
    sliced = load_pipeline(tiny_folder, vae_slice=size)
    sliced.networks.parts = parts  # as on a mesh of so many devices
    sliced = type(pipe)(sliced.spec, sliced.networks)
    latents = latents_of(6)
    images = np.asarray(pipe.decode(latents))
    np.testing.assert_allclose(sliced.decode(latents), images, atol=1e-5)
    np.testing.assert_allclose(sliced.encode(images), pipe.encode(images), atol=1e-4)


def test_slices_inside_a_call(pipe, tiny_folder: Path) -> None:
    sliced = load_pipeline(tiny_folder, vae_slice=2)
    arguments: dict[str, Any] = {"seeds": [1, 2, 3], "steps": 2, "guidance_scale": 1.0}
    np.testing.assert_allclose(sliced(["a", "b", "c"], **arguments), pipe(["a", "b", "c"], **arguments), atol=1e-4)


def test_small_images_are_not_cut(pipe, tiny_folder: Path) -> None:
    in_tiles = load_pipeline(tiny_folder, vae_tile=16)
    np.testing.assert_array_equal(in_tiles.decode(latents_of(2)), pipe.decode(latents_of(2)))
    wide = in_tiles("a cat", 1, steps=1, height=24, width=32)
    assert wide.shape == (1, 24, 32, 3)


def test_tiles_of_a_map_without_a_neighbourhood_are_seamless() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 21, 30, 3)), jnp.float32)
    np.testing.assert_allclose(tiled(lambda tile: 2 * tile, x, 8, 8), 2 * x, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "named"), [({"vae_slice": 0}, "vae_slice"), ({"vae_tile": 12}, "vae_tile"), ({"vae_tile": 0}, "vae_tile")]
)
def test_wrong_parts_get_one_sentence(tiny_folder: Path, options: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        load_pipeline(tiny_folder, **options)


def test_another_autoencoder(pipe, tiny_folder: Path, tmp_path: Path) -> None:
    other = load_pipeline(tiny_folder, vae=write_tiny_vae(tmp_path / "taesd"))
    images = np.asarray(other("a cat", 1, steps=1))
    assert images.shape == (1, 16, 16, 3)
    assert np.abs(images - np.asarray(pipe("a cat", 1, steps=1))).max() > 1e-3
    assert other.digest != pipe.digest
    # Saved, it is the vae/ of the folder, and the folder says so.
    other.save(tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "model_index.json").read_text())["vae"] == ["diffusers", "AutoencoderTiny"]
    again = load_pipeline(tmp_path / "whole")
    np.testing.assert_array_equal(again("a cat", 1, steps=1), images)
    # A generator's folder gives its autoencoder too.
    np.testing.assert_array_equal(load_pipeline(tiny_folder, vae=tmp_path / "whole")("a cat", 1, steps=1), images)


def test_autoencoders_that_do_not_fit(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"latent_channels.*another family"):
        load_pipeline(tiny_folder, vae=write_tiny_vae(tmp_path / "wide", latent_channels=16))
    odd = write_tiny_vae(tmp_path / "odd")
    (odd / "config.json").write_text(json.dumps({**TINY, "_class_name": "VQModel"}))
    with pytest.raises(UserError, match="VQModel is not supported"):
        load_pipeline(tiny_folder, vae=odd)


@pytest.mark.parametrize("whole", [False, True], ids=["alone", "in a generator"])
def test_an_autoencoder_from_the_hub(tiny_folder: Path, tmp_path: Path, monkeypatch, whole: bool) -> None:
    """Only what is needed is fetched; the hub is played by a folder, its choice of files is huggingface_hub's own."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    local = write_tiny_vae(tmp_path / "hub" / "vae")
    hub = local.parent if whole else local
    others = ["README.md", "diffusion_pytorch_model.bin", "taesd_decoder.safetensors", "unet/config.json", "model_index.json"]
    for name in others:
        (hub / name).parent.mkdir(exist_ok=True)
        (hub / name).write_text("{}")

    def download(name: str, allow_patterns: list[str]) -> str:
        assert name == "somebody/some-vae"
        present = [path.relative_to(hub).as_posix() for path in hub.rglob("*") if path.is_file()]
        for file in filter_repo_objects(present, allow_patterns=allow_patterns):
            (tmp_path / "cache" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hub / file, tmp_path / "cache" / file)
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    fetched, direct = load_pipeline(tiny_folder, vae="somebody/some-vae"), load_pipeline(tiny_folder, vae=local)
    assert fetched.digest == direct.digest
    np.testing.assert_array_equal(fetched.decode(latents_of(1)), direct.decode(latents_of(1)))
    found = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert found == {"config.json", "diffusion_pytorch_model.safetensors"}


def test_a_folder_without_an_autoencoder_is_told(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no autoencoder"):
        load_pipeline(tiny_folder, vae=tmp_path)


@pytest.mark.parity
def test_tiles_agree_with_diffusers(tiny_folder: Path) -> None:
    torch = pytest.importorskip("torch")
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL.from_pretrained(tiny_folder / "vae").double()
    theirs.enable_tiling()
    theirs.tile_sample_min_size, theirs.tile_latent_min_size = 16, 8
    ours = load_pipeline(tiny_folder, vae_tile=16)
    factor = theirs.config.scaling_factor
    for height, width in ((14, 21), (8, 12)):
        latents = latents_of(2, height, width)
        with torch.no_grad():
            z = torch.from_numpy(latents.transpose(0, 3, 1, 2)).double() / factor
            decoded = theirs.decode(z).sample.numpy().transpose(0, 2, 3, 1) / 2 + 0.5
        np.testing.assert_allclose(ours.decode(latents), decoded.clip(0, 1), atol=1e-4)
        images = np.random.default_rng(5).uniform(size=(2, 2 * height, 2 * width, 3)).astype(np.float32)
        with torch.no_grad():
            x = torch.from_numpy(images.transpose(0, 3, 1, 2)).double() * 2 - 1
            mean = theirs.encode(x).latent_dist.mode().numpy().transpose(0, 2, 3, 1) * factor
        np.testing.assert_allclose(ours.encode(images), mean, atol=1e-4 * np.abs(mean).max())
    theirs.disable_tiling()
    with torch.no_grad():
        whole = theirs.decode(z).sample.numpy().transpose(0, 2, 3, 1) / 2 + 0.5
    assert np.abs(whole - decoded).max() > 1e-3, "cutting must make a difference, or the test shows nothing"


@pytest.mark.parity
def test_tiny_autoencoder_of_diffusers_in_a_pipeline(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from diffusers import AutoencoderTiny as Theirs

    from benchmarks.reduced.families import FAMILIES, Original, compare_images

    folder = write_tiny_vae(tmp_path / "taesd")
    originals = [Original(tiny_folder, double=double) for double in (False, True)]
    for original in originals:
        original.pipe.vae = Theirs.from_pretrained(folder).to(original.dtype)
        original.pipe.vae_scale_factor = 2
    start = np.random.default_rng(1).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    ours = load_pipeline(tiny_folder, vae=folder)
    for case in ({}, {"init_images": start, "strength": 0.5}):
        mine, single = compare_images(FAMILIES["sd1"], ours, *originals, steps=4, guidance=3.0, **case)
        assert mine < 1e-4, (mine, single)
