"""Convolution, group normalisation and dense layers: NHWC, torch's numbers, quick on CPU and accelerators.

Parameters are float32 unless told otherwise; `dtype` is what the arithmetic runs in. Initial values are those
of torch's layers (uniform in ±1/sqrt(fan in)), with biases at zero.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from bridgejax.models.building import InitFunction, initial
from bridgejax.models.convolution import conv2d, same_padding
from bridgejax.models.dense import dense
from bridgejax.models.unfolded import Pads

ZEROS = nnx.initializers.zeros
UNIFORM_FAN_IN = nnx.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")  # torch's
HE_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015 (arXiv:1502.01852)


class LayerOptions(TypedDict):
    """What all layers of a network share: the dtypes of arithmetic and of parameters, and the source of initial values."""

    dtype: NotRequired[DTypeLike]
    param_dtype: NotRequired[DTypeLike]
    rngs: nnx.Rngs


class Conv2d(nnx.Module):
    """A dense convolution: [n, h, w, features_in] → [n, h', w', features_out]; `kernel` is HWIO."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        padding: int | Pads | Literal["SAME"] | None = None,
        use_bias: bool = True,
        kernel_init: InitFunction = UNIFORM_FAN_IN,
        dtype: DTypeLike | None = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the layer.

        Args:
          features_in, features_out: channels.
          kernel: side of the square kernel.
          stride: of both axes.
          padding: zeros on every side, or ((top, bottom), (left, right)), or "SAME", TensorFlow's, which depends on the
            input's size; None keeps the size at stride 1.
          use_bias: adds a bias [features_out].
          kernel_init: the kernel's initial values.
          dtype: of the arithmetic and the output; None means the input's.
          param_dtype: of the parameters.
          rngs: source of the initial values.
        """
        shape = (kernel, kernel, features_in, features_out)
        self.kernel = nnx.Param(initial(kernel_init, rngs)(rngs.params(), shape, param_dtype))
        zeros = initial(ZEROS, rngs)
        self.bias = nnx.Param(zeros(None, (features_out,), param_dtype)) if use_bias else None
        side = kernel // 2 if padding is None else padding
        self.padding = ((side, side), (side, side)) if isinstance(side, int) else side
        self.stride = stride
        self.size = kernel
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = x.dtype if self.dtype is None else self.dtype
        if self.padding == "SAME":
            pads = same_padding(x.shape[1], self.size, self.stride), same_padding(x.shape[2], self.size, self.stride)
        else:
            pads = self.padding
        out = conv2d(x.astype(dtype), self.kernel[...].astype(dtype), self.stride, pads)
        return out if self.bias is None else out + self.bias[...].astype(dtype)


class GroupNorm(nnx.Module):
    """Group normalisation over the last axis (Wu & He 2018); statistics in float32, result in `dtype`."""

    def __init__(
        self,
        groups: int,
        features: int,
        *,
        epsilon: float = 1e-5,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        """Makes the layer; `features` must be a multiple of `groups` (the caller's configuration is checked)."""
        self.scale = nnx.Param(initial(nnx.initializers.ones, rngs)(None, (features,), param_dtype))
        self.bias = nnx.Param(initial(ZEROS, rngs)(None, (features,), param_dtype))
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
    kernel_init: InitFunction = UNIFORM_FAN_IN,
    **options: Unpack[LayerOptions],
) -> nnx.Linear:
    """Returns a dense layer with torch's initial distribution; `kernel` is [features_in, features_out]."""
    options.setdefault("dtype", jnp.float32)
    return nnx.Linear(
        features_in,
        features_out,
        use_bias=use_bias,
        kernel_init=initial(kernel_init, options["rngs"]),
        bias_init=initial(ZEROS, options["rngs"]),
        dot_general=_dot_general,
        **options,
    )


def _dot_general(x: jax.Array, kernel: jax.Array, dimension_numbers: object, **options: object) -> jax.Array:
    """`dense` in the place of `lax.dot_general`, for `nnx.Linear`, which contracts the last axis with the first."""
    return dense(x, kernel)


def layer_norm(features: int, *, epsilon: float = 1e-5, **options: Unpack[LayerOptions]) -> nnx.LayerNorm:
    """Returns layer normalisation over the last axis; the mean and variance are taken in float32, in two passes."""
    options.setdefault("dtype", jnp.float32)
    ones, zeros = initial(nnx.initializers.ones, options["rngs"]), initial(ZEROS, options["rngs"])
    return nnx.LayerNorm(features, epsilon=epsilon, scale_init=ones, bias_init=zeros, use_fast_variance=False, **options)


def upsample_nearest(x: jax.Array, height: int, width: int) -> jax.Array:
    """Returns `x` [n, h, w, c] at [n, height, width, c]; pixel i comes from ⌊i · h / height⌋, as in torch."""
    batch, h, w, channels = x.shape
    if (height, width) == (2 * h, 2 * w):
        doubled = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, h, 2, w, 2, channels))
        return doubled.reshape(batch, height, width, channels)
    rows = jnp.arange(height) * h // height
    columns = jnp.arange(width) * w // width
    return x[:, rows][:, :, columns]
