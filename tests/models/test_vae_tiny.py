"""The tiny autoencoder beside PyTorch's, and configs it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.safetensors_files import read_tensors
from bridgejax.models.vae_tiny import VAE_TINY_RULES, AutoencoderTiny
from bridgejax.models.weights import assign, export

TINY: dict[str, Any] = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 2],
    "num_decoder_blocks": [2, 1],
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"act_fn": "tanh"}, "act_fn"),
        ({"upsampling_scaling_factor": 4}, "upsampling_scaling_factor"),
        ({"num_encoder_blocks": [1, 2, 3]}, "encoder_block_out_channels"),
        ({"mystery": 1}, "mystery"),
    ],
)
def test_unsupported_configs_are_named(change: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        nnx.eval_shape(lambda: AutoencoderTiny({**TINY, **change}, rngs=nnx.Rngs(0)))


@pytest.mark.parity
@pytest.mark.parametrize("change", [{}, {"act_fn": "gelu", "latent_channels": 16}])
def test_agrees_with_pytorch(change: dict, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from diffusers import AutoencoderTiny as Theirs

    torch.manual_seed(0)
    keys = {key: value for key, value in {**TINY, **change}.items() if not key.startswith("_")}
    theirs = Theirs(**keys).eval()
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    tensors = read_tensors(tmp_path)
    ours = assign(nnx.eval_shape(lambda: AutoencoderTiny(saved, rngs=nnx.Rngs(0))), tensors, VAE_TINY_RULES, "vae")
    for name, array in export(ours, VAE_TINY_RULES).items():
        np.testing.assert_array_equal(array, tensors[name])
    assert ours.factor == 2
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 12, 16, 3)).astype(np.float32)
    latents = 3 * rng.normal(size=(2, 6, 8, ours.latent_channels)).astype(np.float32)
    double = theirs.double()
    with torch.no_grad():
        encoded = double.encode(torch.from_numpy(images.transpose(0, 3, 1, 2)).double()).latents.numpy()
        decoded = double.decode(torch.from_numpy(latents.transpose(0, 3, 1, 2)).double()).sample.numpy()
    for got, want in (
        (jax.jit(lambda x: ours.encode(x))(images), encoded),
        (jax.jit(lambda z: ours.decode(z))(latents), decoded),
    ):
        np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), atol=1e-4 * np.abs(want).max())
