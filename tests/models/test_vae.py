"""The autoencoder beside PyTorch's, old and new tensor names, and configs it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.safetensors_files import read_tensors
from bridgejax.models.vae import VAE_RULES, AutoencoderKL, modern_vae_names
from bridgejax.models.weights import assign, export

TINY: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}


def filled(build: Any) -> Any:
    """The module with random numbers from NumPy; compiling the initialisers would take longer than the test."""
    graph, state = nnx.split(nnx.eval_shape(build))
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> Any:
        spread = 0.02 if len(leaf.shape) == 1 else 1 / np.prod(leaf.shape[:-1]) ** 0.5
        return jnp.asarray(rng.normal("scale" in str(path), spread, leaf.shape), leaf.dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, state))


def test_shapes() -> None:
    vae = filled(lambda: AutoencoderKL(TINY, rngs=nnx.Rngs(0)))
    mean, log_variance = vae.encode(jnp.zeros((1, 8, 12, 3)))
    assert mean.shape == log_variance.shape == (1, 4, 6, 4)
    assert vae.decode(mean).shape == (1, 8, 12, 3)
    assert (vae.factor, vae.scaling_factor) == (2, 0.18215)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"down_block_types": ["AttnDownEncoderBlock2D", "DownEncoderBlock2D"]}, "down_block_types"),
        ({"shift_factor": 0.1}, "shift_factor"),
        ({"norm_num_groups": 5}, "norm_num_groups"),
        ({"mystery": 1}, "mystery"),
        ({"act_fn": "quick_gelu"}, "act_fn = 'quick_gelu'"),
    ],
)
def test_unsupported_configs_are_named(change: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        nnx.eval_shape(lambda: AutoencoderKL({**TINY, **change}, rngs=nnx.Rngs(0)))


@pytest.mark.parity
@pytest.mark.parametrize(
    ("change", "old_names"),
    [
        ({}, False),
        ({}, True),
        ({"act_fn": "gelu"}, False),
        ({"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False}, False),
    ],
)
def test_agrees_with_pytorch(change: dict, old_names: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from diffusers import AutoencoderKL as Theirs

    torch.manual_seed(0)
    theirs = Theirs(**{**TINY, "block_out_channels": [16, 32], "norm_num_groups": 8, **change}).eval()
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    tensors = dict(read_tensors(tmp_path))
    if old_names:
        for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            tensors = {name.replace(f".{new}.", f".{old}."): array for name, array in tensors.items()}
        assert any("proj_attn" in name for name in tensors)
    ours = assign(nnx.eval_shape(lambda: AutoencoderKL(saved, rngs=nnx.Rngs(0))), modern_vae_names(tensors), VAE_RULES, "vae")
    assert set(export(ours, VAE_RULES)) == set(read_tensors(tmp_path))
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 3, 16, 12)).astype(np.float32)
    latents = rng.normal(size=(2, 4, 8, 6)).astype(np.float32)
    with torch.no_grad():
        posterior = theirs.encode(torch.from_numpy(images)).latent_dist
        decoded = theirs.decode(torch.from_numpy(latents)).sample.numpy().transpose(0, 2, 3, 1)
    encode, decode = nnx.jit(lambda m, x: m.encode(x)), nnx.jit(lambda m, z: m.decode(z))
    for got, expected in zip(encode(ours, images.transpose(0, 2, 3, 1)), (posterior.mean, posterior.logvar), strict=True):
        want = expected.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
    np.testing.assert_allclose(decode(ours, latents.transpose(0, 2, 3, 1)), decoded, atol=1e-4 * np.abs(decoded).max())
