"""The CLIP text encoder beside transformers' own."""

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
from bridgejax.models.clip_text import CLIP_TEXT_RULES, CLIPTextModel, plain_text_names
from bridgejax.models.safetensors_files import read_tensors
from bridgejax.models.weights import assign, export

TINY: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "bos_token_id": 98,
    "eos_token_id": 99,
    "projection_dim": 12,
}


def filled(build: Any) -> Any:
    """The module with random numbers from NumPy; compiling the initialisers would take longer than the test."""
    graph, state = nnx.split(nnx.eval_shape(build))
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> Any:
        spread = 0.02 if len(leaf.shape) == 1 else 1 / np.prod(leaf.shape[:-1]) ** 0.5
        return jnp.asarray(rng.normal("scale" in str(path), spread, leaf.shape), leaf.dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, state))


def test_tokens_see_only_what_comes_before() -> None:
    model = filled(lambda: CLIPTextModel(TINY, rngs=nnx.Rngs(0)))
    a, b = jnp.asarray([[98, 5, 6, 7, 99]]), jnp.asarray([[98, 5, 6, 8, 99]])
    x, y = model(a), model(b)
    np.testing.assert_allclose(x.last_hidden_state[:, :3], y.last_hidden_state[:, :3], atol=1e-6)
    assert jnp.abs(x.last_hidden_state[:, 3:] - y.last_hidden_state[:, 3:]).max() > 1e-3
    np.testing.assert_array_equal(x.pooled, x.last_hidden_state[:, 4])


@pytest.mark.parametrize(
    ("change", "named"),
    [({"hidden_act": "tanh"}, "config.json: hidden_act = 'tanh'"), ({"num_attention_heads": 3}, "num_attention_heads")],
)
def test_unsupported_configs_are_named(change: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        nnx.eval_shape(lambda: CLIPTextModel({**TINY, **change}, rngs=nnx.Rngs(0), where="config.json"))


@pytest.mark.parity
@pytest.mark.parametrize(
    ("change", "projection", "prefix"),
    [
        ({"hidden_act": "quick_gelu", "eos_token_id": 2}, False, True),
        ({"hidden_act": "gelu", "num_hidden_layers": 2}, False, False),
        ({"hidden_act": "gelu"}, True, True),
        *(({"hidden_act": name}, False, True) for name in ("gelu_new", "gelu_pytorch_tanh", "silu", "swish", "relu")),
    ],
)
def test_agrees_with_transformers(change: dict, projection: bool, prefix: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection
    from transformers import CLIPTextModel as Plain

    torch.manual_seed(0)
    theirs = (CLIPTextModelWithProjection if projection else Plain)(CLIPTextConfig(**{**TINY, **change})).eval()
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    plain = plain_text_names(read_tensors(tmp_path))
    tensors = {f"text_model.{name}" if prefix and name != "text_projection.weight" else name: x for name, x in plain.items()}
    ours = assign(
        nnx.eval_shape(lambda: CLIPTextModel(saved, projection=projection, rngs=nnx.Rngs(0))),
        plain_text_names(tensors),
        CLIP_TEXT_RULES,
        "text_encoder",
    )
    assert set(export(ours, CLIP_TEXT_RULES)) == set(plain)
    ids = np.random.default_rng(0).integers(3, 98, (2, 77))
    ids[0, 10:], ids[1, 30:] = 99, 99
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids), output_hidden_states=True)
    got = nnx.jit(lambda model, ids: model(ids))(ours, jnp.asarray(ids, jnp.int32))
    pairs = (
        (got.last_hidden_state, expected.last_hidden_state),
        (got.penultimate, expected.hidden_states[-2]),
        (got.pooled, expected.text_embeds if projection else expected.pooler_output),
    )
    for mine, want in pairs:
        np.testing.assert_allclose(mine, want.numpy(), atol=1e-4 * float(want.abs().max()))
