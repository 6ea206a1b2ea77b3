"""Activation functions by the names that published configs give them (`hidden_act`, `act_fn`)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import jax
import jax.numpy as jnp

from bridgejax.errors import UserError, choices

Activation = Callable[[jax.Array], jax.Array]


def quick_gelu(x: jax.Array) -> jax.Array:
    """Returns x · sigmoid(1.702 x), the GELU of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


@jax.custom_vjp
def relu6(x: jax.Array) -> jax.Array:
    """Returns min(max(x, 0), 6); the derivative is 0 at both bends, as PyTorch's."""
    return jnp.clip(x, 0.0, 6.0)


relu6.defvjp(
    lambda x: (jnp.clip(x, 0.0, 6.0), x), lambda x, grad: (jnp.where((x > 0.0) & (x < 6.0), grad, jnp.zeros_like(grad)),)
)

_exact_gelu = partial(jax.nn.gelu, approximate=False)
_tanh_gelu = partial(jax.nn.gelu, approximate=True)
# In transformers all of these go with any network; diffusers knows those of `DIFFUSERS`.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": _exact_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "mish": jax.nn.mish,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}
DIFFUSERS = ("gelu", "mish", "relu", "silu", "swish")


def checked_activation(name: object, where: str, known: Collection[str] = ACTIVATIONS) -> str:
    """Returns `name`, checked.

    Args:
      name: as a config states it.
      where: the file and key, for messages.
      known: the names that the network's original knows.

    Raises:
      UserError: the name is not one of `known`.
    """
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{where} = {name!r} is not a supported activation; {choices(name, known)}")
    return name
