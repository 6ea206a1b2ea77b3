"""The colours and sharpness of MoCo v2's views (Chen et al. 2020, arXiv 2003.04297, "aug+"; after SimCLR), on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp

JITTER, HUE = 0.4, 0.1  # of brightness, contrast and saturation; in turns
JITTERED, GREY, BLURRED = 0.8, 0.2, 0.5  # how often
SIGMAS, SIDE = (0.1, 2.0), 224  # of the blur, in pixels of an image of that side
_LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = (_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def recoloured(key: jax.Array, images: jax.Array, strength: jax.Array | float) -> jax.Array:
    """Returns images with other colours, some of them grey, some blurred.

    As MoCo v2 does it, but for the order (always brightness, contrast, saturation, hue) and hue, which is turned in YIQ.

    Args:
      key: decides all draws.
      images: float [n, h, w, 3] in [0, 1].
      strength: in [0, 1]; multiplies the ranges of colour and how often images are grey or blurred. 0 changes nothing.
    """
    rows = images.shape[0]
    draws = jax.random.uniform(key, (8, rows, 1, 1, 1), images.dtype)
    bright, contrast, colour = 1 + (2 * draws[:3] - 1) * JITTER * strength
    jittered = jnp.clip(images * bright, 0, 1)
    jittered = _between(_grey(jittered).mean((1, 2, 3), keepdims=True), jittered, contrast)
    jittered = _turned(_between(_grey(jittered), jittered, colour), (2 * draws[3] - 1) * HUE * strength)
    images = jnp.where((draws[4] < JITTERED) & (strength > 0), jittered, images)
    images = jnp.where(draws[5] < GREY * strength, _grey(images), images)
    sigma = (SIGMAS[0] + draws[6] * (SIGMAS[1] - SIGMAS[0])) * images.shape[1] / SIDE
    return jnp.where(draws[7] < BLURRED * strength, _blurred(images, sigma), images)


def _grey(images: jax.Array) -> jax.Array:
    return images @ jnp.asarray(_LUMA, images.dtype)[:, None]


def _between(start: jax.Array, end: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.clip(start + weight * (end - start), 0, 1)


def _turned(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Returns images with their hue turned by `turns` [n, 1, 1, 1] about the grey axis."""
    matrix = jnp.asarray(_TO_YIQ, images.dtype)
    y, i, q = jnp.split(images @ matrix.T, 3, -1)
    cosine, sine = jnp.cos(2 * jnp.pi * turns), jnp.sin(2 * jnp.pi * turns)
    turned = jnp.concatenate([y, cosine * i - sine * q, sine * i + cosine * q], -1)
    return jnp.clip(turned @ jnp.linalg.inv(matrix).T, 0, 1)


def _blurred(images: jax.Array, sigma: jax.Array) -> jax.Array:
    """Returns images under a Gaussian of `sigma` [n, 1, 1, 1] pixels, as far as three of the widest, edges repeated."""
    reach = max(1, round(3 * SIGMAS[1] * images.shape[1] / SIDE))
    offsets = jnp.arange(-reach, reach + 1, dtype=images.dtype)
    weights = jax.nn.softmax(-0.5 * (offsets / sigma[..., 0]) ** 2, -1)  # [n, 1, taps]
    for axis in (1, 2):
        pads = [(0, 0)] * 4
        pads[axis] = (reach, reach)
        wide, size = jnp.pad(images, pads, mode="edge"), images.shape[axis]
        taps = [jax.lax.slice_in_dim(wide, tap, tap + size, axis=axis) for tap in range(2 * reach + 1)]
        images = sum(weights[:, :, tap, None, None] * part for tap, part in enumerate(taps))  # type: ignore[assignment]
    return images
