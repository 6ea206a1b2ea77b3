"""Convolution, group normalisation and dense layers: NHWC, torch's numbers, quick on CPU and accelerators.

Parameters are float32 unless told otherwise; `dtype` is what the arithmetic runs in. Initial values are those
of torch's layers (uniform in ±1/sqrt(fan in)), with biases at zero.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bridgejax.models.building import initial
from bridgejax.models.convolution import conv2d
from bridgejax.models.dense import dense

DType = Any
_uniform_fan_in = nnx.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


class Conv2d(nnx.Module):
    """A dense convolution: [n, h, w, features_in] → [n, h', w', features_out]; `kernel` is HWIO."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        padding: int | tuple[tuple[int, int], tuple[int, int]] | None = None,
        use_bias: bool = True,
        zero_init: bool = False,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the layer; `padding=None` keeps the size at stride 1, `zero_init` starts as the zero map."""
        init = nnx.initializers.zeros if zero_init else _uniform_fan_in
        shape = (kernel, kernel, features_in, features_out)
        self.kernel = nnx.Param(initial(init, rngs)(rngs.params(), shape, param_dtype))
        zeros = initial(nnx.initializers.zeros, rngs)
        self.bias = nnx.Param(zeros(None, (features_out,), param_dtype)) if use_bias else None
        side = kernel // 2 if padding is None else padding
        self.padding = ((side, side), (side, side)) if isinstance(side, int) else side
        self.stride = stride
        self.size = kernel
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        out = conv2d(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.stride, self.padding)
        return out if self.bias is None else out + self.bias[...].astype(self.dtype)


class GroupNorm(nnx.Module):
    """Group normalisation over the last axis (Wu & He 2018); statistics in float32, result in `dtype`."""

    def __init__(
        self,
        groups: int,
        features: int,
        *,
        epsilon: float = 1e-5,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        """Makes the layer; `features` must be a multiple of `groups` (the caller's configuration is checked)."""
        self.scale = nnx.Param(initial(nnx.initializers.ones, rngs)(None, (features,), param_dtype))
        self.bias = nnx.Param(initial(nnx.initializers.zeros, rngs)(None, (features,), param_dtype))
        self.groups = groups
        self.epsilon = epsilon
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `x` [n, ..., features] over its spatial axes and the channels of each group.

        Sums run over space first and over the channels of a group afterwards, on [n, features]: no axis of the
        large array is split, which is slow on CPU. Two passes, since E[x²] − E[x]² loses digits.
        """
        values = x.astype(jnp.float32)
        space = tuple(range(1, x.ndim - 1))
        centred = values - self._per_channel(values.mean(space), x.ndim)
        variance = self._per_channel(jnp.square(centred).mean(space), x.ndim)
        factor = lax.rsqrt(variance + self.epsilon) * self.scale[...].astype(jnp.float32)
        return (centred * factor + self.bias[...].astype(jnp.float32)).astype(self.dtype)

    def _per_channel(self, means: jax.Array, rank: int) -> jax.Array:
        """Averages [n, features] within groups and spreads the result: [n, 1, ..., 1, features]."""
        batch, features = means.shape
        width = features // self.groups
        grouped = jnp.repeat(means.reshape(batch, self.groups, width).mean(-1), width, axis=1)
        return grouped.reshape(batch, *(1,) * (rank - 2), features)


def linear(
    features_in: int,
    features_out: int,
    *,
    use_bias: bool = True,
    zero_init: bool = False,
    dtype: DType = jnp.float32,
    param_dtype: DType = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Returns a dense layer with torch's initial distribution; `kernel` is [features_in, features_out]."""
    return nnx.Linear(
        features_in,
        features_out,
        use_bias=use_bias,
        kernel_init=initial(nnx.initializers.zeros if zero_init else _uniform_fan_in, rngs),
        bias_init=initial(nnx.initializers.zeros, rngs),
        dtype=dtype,
        param_dtype=param_dtype,
        dot_general=_dot_general,
        rngs=rngs,
    )


def _dot_general(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
    """`dense` in the place of `lax.dot_general`, for `nnx.Linear`, which contracts the last axis with the first."""
    return dense(x, kernel)


def layer_norm(
    features: int, *, epsilon: float = 1e-5, dtype: DType = jnp.float32, param_dtype: DType = jnp.float32, rngs: nnx.Rngs
) -> nnx.LayerNorm:
    """Returns layer normalisation over the last axis; the mean and variance are taken in float32, in two passes."""
    return nnx.LayerNorm(
        features,
        epsilon=epsilon,
        dtype=dtype,
        param_dtype=param_dtype,
        scale_init=initial(nnx.initializers.ones, rngs),
        bias_init=initial(nnx.initializers.zeros, rngs),
        use_fast_variance=False,
        rngs=rngs,
    )


def upsample_nearest(x: jax.Array, height: int, width: int) -> jax.Array:
    """Returns `x` [n, h, w, c] at [n, height, width, c]; pixel i comes from ⌊i · h / height⌋, as in torch."""
    batch, h, w, channels = x.shape
    if (height, width) == (2 * h, 2 * w):
        doubled = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, h, 2, w, 2, channels))
        return doubled.reshape(batch, height, width, channels)
    rows = jnp.arange(height) * h // height
    columns = jnp.arange(width) * w // width
    return x[:, rows][:, :, columns]
