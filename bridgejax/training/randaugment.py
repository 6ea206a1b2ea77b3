"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719) on the device, as DeiT trains with it: timm's "rand-m9-mstd0.5-inc1".

An operation is a table of 256 values for each channel, a blend with another picture, or an affine warp. All images of a batch
go through all three, which leave an image as it is where it did not draw them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

OPERATIONS = (
    *("autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add", "contrast", "brightness"),
    *("colour", "sharpness", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
)
MOST, NOISE, SHARE = 10.0, 0.5, 0.5  # largest magnitude; deviation of an operation's own; how often one that is drawn is done
_CHANGE, _LEAST, _ADD, _TURN, _SHEAR, _SHIFT = 0.9, 0.1, 110, 30.0, 0.3, 0.45  # at the largest magnitude
_LUMA = (19595, 38470, 7471)  # of 65536, as Pillow has them


def randaugment(key: jax.Array, image: jax.Array, magnitude: float, layers: int, fill: jax.Array) -> jax.Array:
    """Returns an image after `layers` operations, each drawn from `OPERATIONS` and done half of the time.

    Args:
      key: decides all draws.
      image: uint8 [h, w, 3].
      magnitude: in [0, 10], the mean of each operation's own, which is normal and clipped to that range.
      layers: how many operations are drawn.
      fill: what warps put where the image has nothing, [3] in [0, 255].
    """

    def layer(number: int, shown: jax.Array) -> jax.Array:
        for_kind, for_level, for_sign, for_use = jax.random.split(jax.random.fold_in(key, number), 4)
        level = jnp.clip(magnitude + NOISE * jax.random.normal(for_level), 0, MOST) / MOST
        sign = jnp.where(jax.random.bernoulli(for_sign), 1.0, -1.0)
        changed = operated(shown, jax.random.randint(for_kind, (), 0, len(OPERATIONS)), level, sign, fill)
        return jnp.where(jax.random.uniform(for_use) < SHARE, changed, shown)

    return jax.lax.fori_loop(0, layers, layer, image)


def operated(image: jax.Array, kind: jax.Array, level: jax.Array, sign: jax.Array, fill: jax.Array) -> jax.Array:
    """Returns an image after one operation, with Pillow's rounding; warps are bilinear.

    Args:
      image: uint8 [h, w, 3].
      kind: which of `OPERATIONS`, an int scalar.
      level: strength in [0, 1].
      sign: 1 or -1, of operations that have a direction.
      fill: as of `randaugment`.
    """
    is_kind = {name: kind == number for number, name in enumerate(OPERATIONS)}
    pixels = image.astype(jnp.int32)
    factor = jnp.maximum(_LEAST, 1 + sign * _CHANGE * level)
    tables = _tables(pixels, level, factor)
    table = jnp.select([is_kind[name] for name in tables], list(tables.values()), jnp.arange(256)[None].repeat(3, 0))
    pixels = jax.vmap(jnp.take, (0, -1), -1)(table, pixels)
    ground = jnp.where(is_kind["colour"], _grey(pixels)[..., None], jnp.where(is_kind["sharpness"], _smooth(pixels), pixels))
    pixels = _blend(ground, pixels, jnp.where(is_kind["colour"] | is_kind["sharpness"], factor, 1.0))
    return _warped(pixels, _matrix(is_kind, sign * level, pixels.shape[0], pixels.shape[1]), fill).astype(jnp.uint8)


def _tables(pixels: jax.Array, level: jax.Array, factor: jax.Array) -> dict[str, jax.Array]:
    """Returns for each operation that is one a table from values to values, int32 [3, 256]."""
    values = jnp.arange(256)
    counts = jax.vmap(lambda channel: jnp.zeros(256, jnp.int32).at[channel.reshape(-1)].add(1), -1)(pixels)
    there = counts > 0
    low, high = jnp.argmax(there, 1)[:, None], 255 - jnp.argmax(there[:, ::-1], 1)[:, None]
    width = jnp.maximum(high - low, 1)
    stretched = jnp.clip((values - low) * 255 // width, 0, 255)
    # As many pixels to each value: all but those of the highest, over 255.
    step = (counts.sum(1, keepdims=True) - jnp.take_along_axis(counts, high, 1)) // 255
    below = jnp.cumsum(counts, 1) - counts
    even = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
    bits = 4 - jnp.floor(level * 4).astype(jnp.int32)
    bound = 256 - jnp.floor(level * 256).astype(jnp.int32)
    raised = jnp.minimum(values + jnp.floor(level * _ADD).astype(jnp.int32), 255)
    mean = jnp.floor(_grey(pixels).mean() + 0.5)
    tables = {
        "autocontrast": jnp.where(high > low, stretched, values),
        "equalize": jnp.where((there.sum(1, keepdims=True) > 1) & (step > 0), even, values),
        "invert": 255 - values,
        "posterize": values & ~((1 << (8 - bits)) - 1),
        "solarize": jnp.where(values < bound, values, 255 - values),
        "solarize_add": jnp.where(values < 128, raised, values),
        "contrast": _blend(mean, values, factor),
        "brightness": _blend(jnp.zeros(()), values, factor),
    }
    return {name: jnp.broadcast_to(table, (3, 256)) for name, table in tables.items()}


def _blend(start: jax.Array, end: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.floor(jnp.clip(start + weight * (end - start), 0, 255)).astype(jnp.int32)


def _grey(pixels: jax.Array) -> jax.Array:
    """Returns the luma of pixels [h, w, 3], int32 [h, w]."""
    return (pixels @ jnp.asarray(_LUMA, jnp.int32) + 0x8000) >> 16


def _smooth(pixels: jax.Array) -> jax.Array:
    """Returns pixels averaged with their eight neighbours, the middle weighing 5 of 13; the border stays."""
    height, width = pixels.shape[:2]
    sums = sum(pixels[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)) + 4 * pixels[1:-1, 1:-1]
    return pixels.at[1:-1, 1:-1].set((2 * sums + 13) // 26)


def _matrix(is_kind: dict[str, jax.Array], amount: jax.Array, height: int, width: int) -> jax.Array:
    """Returns [2, 3]: from x and y in the result, and 1, to x and y in the image, in pixels from its corner.

    `amount` is in [-1, 1]. Of operations that are no warp it is the identity.
    """

    def of(name: str, most: float) -> jax.Array:
        return jnp.where(is_kind[name], amount * most, 0.0)

    angle = of("rotate", jnp.pi * _TURN / 180)
    cosine, sine, x, y = jnp.cos(angle), jnp.sin(angle), width / 2, height / 2
    turn = jnp.stack([cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y])
    one = jnp.ones(())
    across = one, of("shear_x", _SHEAR), of("translate_x", _SHIFT * width)
    plain = jnp.stack([*across, of("shear_y", _SHEAR), one, of("translate_y", _SHIFT * height)])
    return jnp.where(is_kind["rotate"], turn, plain).reshape(2, 3)


def _warped(pixels: jax.Array, matrix: jax.Array, fill: jax.Array) -> jax.Array:
    """Returns pixels, int32 [h, w, 3], as they are seen through a matrix: bilinear, edges repeated half a pixel beyond."""
    height, width = pixels.shape[:2]
    x, y = jnp.arange(width) + 0.5, jnp.arange(height)[:, None] + 0.5
    across, down = (row[0] * x + row[1] * y + row[2] for row in matrix)
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)

    def ends(places: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        first = jnp.floor(places - 0.5)
        low, high = (jnp.clip(first + k, 0, size - 1).astype(jnp.int32) for k in (0, 1))
        return low, high, (places - 0.5 - first)[..., None]

    left, right, to_right = ends(across, width)
    top, bottom, to_bottom = ends(down, height)

    def row(of: jax.Array) -> jax.Array:
        return pixels[of, left] + to_right * (pixels[of, right] - pixels[of, left])

    seen = row(top) + to_bottom * (row(bottom) - row(top))
    return jnp.where(inside[..., None], seen, jnp.asarray(fill)).astype(jnp.int32)
