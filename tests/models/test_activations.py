"""Activations by name: PyTorch's values and slopes, and one sentence for a name that no network has."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridgejax.errors import UserError
from bridgejax.models.activations import ACTIVATIONS, DIFFUSERS, checked_activation


def test_an_unknown_name_is_refused_with_its_place() -> None:
    with pytest.raises(UserError, match=r"unet/config.json: act_fn = 'gelu_new' .*did you mean 'gelu'"):
        checked_activation("gelu_new", "unet/config.json: act_fn", DIFFUSERS)
    with pytest.raises(UserError, match="hidden_act = None is not a supported activation"):
        checked_activation(None, "hidden_act")


@pytest.mark.parity
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_slopes_are_those_of_transformers(name: str) -> None:
    """In float64, so that only another formula could differ."""
    torch = pytest.importorskip("torch")
    from transformers.activations import ACT2FN

    x = np.linspace(-9, 9, 73)
    theirs = torch.tensor(x, requires_grad=True)
    y = ACT2FN[name](theirs)
    y.sum().backward()
    with jax.enable_x64(True):
        ours = jnp.asarray(x)
        np.testing.assert_allclose(ACTIVATIONS[name](ours), y.detach(), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(jax.vmap(jax.grad(ACTIVATIONS[name]))(ours), theirs.grad, rtol=1e-10, atol=1e-13)
