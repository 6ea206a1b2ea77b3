"""JAX's default rules for implicit conversions, which hold inside bridgejax whatever a process has set for its own code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_DEFAULTS = {"jax_numpy_rank_promotion": "allow", "jax_numpy_dtype_promotion": "standard", "jax_transfer_guard": "allow"}


def under_jax_defaults(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Makes a function that users call run under JAX's default rules.

    Programs around bridgejax may forbid what these rules do by themselves (JAX_NUMPY_RANK_PROMOTION=raise,
    JAX_NUMPY_DTYPE_PROMOTION=strict, JAX_TRANSFER_GUARD=disallow), to find it in their own code. Here, and in the libraries
    underneath, it is meant, and no compiled program differs.
    """

    @functools.wraps(function)
    def call(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        import jax

        if all(jax.config.values.get(name) in (None, value) for name, value in _DEFAULTS.items()):
            return function(*args, **options)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), jax.transfer_guard("allow"):
            return function(*args, **options)

    return call


def use_jax_defaults() -> None:
    """Sets the default rules for a whole process: one that is a command's own."""
    import jax

    for name, value in _DEFAULTS.items():
        jax.config.update(name, value)
