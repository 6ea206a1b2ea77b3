"""Networks built as shapes alone are those that initialisation makes, and a repeated block is traced once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.reduced.generator import TEXT, UNET, VAE
from bridgejax.models.building import ShapesOnly, traced_once
from bridgejax.models.clip_text import CLIPTextModel
from bridgejax.models.layers import linear
from bridgejax.models.unet import UNet2DCondition
from bridgejax.models.vae import AutoencoderKL
from bridgejax.models.vae_tiny import AutoencoderTiny

PROJECTED = {**UNET, "use_linear_projection": True, "addition_embed_type": "text", "addition_embed_type_num_heads": 4}
TINY_VAE = {f"{part}_block_out_channels": [8, 8] for part in ("encoder", "decoder")} | {
    f"num_{part}_blocks": [1, 1] for part in ("encoder", "decoder")
}


@pytest.mark.parametrize(
    ("kind", "config", "more"),
    [
        (UNet2DCondition, UNET, {}),
        (UNet2DCondition, PROJECTED, {}),
        (AutoencoderKL, VAE, {}),
        (AutoencoderTiny, TINY_VAE, {}),
        (CLIPTextModel, TEXT, {"projection": True}),
    ],
)
def test_shapes_are_those_of_initialisation(kind, config, more):
    options = {"dtype": jnp.bfloat16, "param_dtype": jnp.float16, **more}
    graph, state = nnx.split(kind(config, rngs=ShapesOnly(), **options))
    wanted_graph, wanted = nnx.split(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0), **options)))
    assert graph == wanted_graph
    found = jax.tree.map(lambda leaf: (type(leaf), leaf.shape, leaf.dtype), state)
    assert found == jax.tree.map(lambda leaf: (jax.ShapeDtypeStruct, leaf.shape, leaf.dtype), wanted)


class Block(nnx.Module):
    """A dense layer that counts how often Python runs through it."""

    runs = 0

    def __init__(self, rngs: nnx.Rngs):
        self.layer = linear(4, 4, rngs=rngs)

    @traced_once
    def __call__(self, x: jax.Array, y: jax.Array | None = None) -> jax.Array:
        Block.runs += 1
        return self.layer(x) if y is None else self.layer(x) + y


def test_equal_blocks_are_traced_once_and_keep_their_own_weights():
    rngs = nnx.Rngs(0)
    graph, state = nnx.split(nnx.List([Block(rngs) for _ in range(5)]))

    def through(state, x):
        for block in nnx.merge(graph, state):
            x = block(x)
        return x

    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    expected = x
    for block in nnx.merge(graph, state):
        expected = expected @ np.asarray(block.layer.kernel[...]) + np.asarray(block.layer.bias[...])
    Block.runs = 0
    np.testing.assert_allclose(jax.jit(through)(state, x), expected, rtol=1e-5, atol=1e-6)
    assert Block.runs == 1
    gradient = jax.jit(jax.grad(lambda state: through(state, x).sum()))(state)
    kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(gradient) if leaf.ndim == 2]
    assert len(kernels) == 5
    assert len({kernel.tobytes() for kernel in kernels}) == 5  # each block has its own derivative
