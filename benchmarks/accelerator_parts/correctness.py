"""The device's values against the CPU's float32 ones, computed by a process of their own.

    python -m benchmarks.accelerator_parts.correctness FILE CONTEXT     # the CPU's values, into FILE

The same weights and inputs go to both: the embedded generator (sampler, UNet call, autoencoder), EfficientNet-Lite0's embedded
weights, and a ResNet-18 and a small ViT with weights that NumPy draws (a smoke run takes small random networks). `tolerance`
says how far the values may differ.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accelerator_parts.classifiers import EFFICIENTNET, random_classifier
from benchmarks.accelerator_parts.context import Context
from benchmarks.accelerator_parts.record import Row

_SEEDS, _STEPS, _GUIDANCE = (3, 2**62 + 5), 4, 2.0
_BUILTIN = "builtin:tiny_diffusion"
# title: timm's name, side of the images in pixels, timm's arguments
_BACKBONES: dict[str, tuple[str, int, dict[str, int]]] = {
    "ResNet-18": ("resnet18", 64, {}),
    "ViT-S/16": ("vit_small_patch16_224", 64, {"depth": 6}),
    "EfficientNet-Lite0": (EFFICIENTNET, 64, {}),
}
_SMOKE: dict[str, tuple[str, int, dict[str, int]]] = {"ViT-Ti/16": ("vit_tiny_patch16_224", 32, {"depth": 1})}
# Of stored values for each product: its weights, its result, and the parameters and the result of the norm after it.
_ROUNDINGS = 4
_STANDARD = 2  # deviations of a random walk


@dataclass(frozen=True)
class Value:
    """A computed value and the products on its way.

    Attributes:
      array: float32.
      count: products in a row, for the tolerance.
      longest: terms of the longest sum among them.
      gain: how much guidance makes of an error.
    """

    array: np.ndarray
    count: int
    longest: int
    gain: float = 1.0


def tolerance(dtype: str, count: int, longest: int, gain: float = 1.0) -> float:
    """Returns how far a value may be from the exact one, as a share of the largest.

    Rounding errors are independent and add up as a random walk: `count` products in a row with `_ROUNDINGS` roundings each by
    half the spacing of `dtype`, and within each a sum of `longest` terms in float32, in whatever order. The largest error
    stands to a usual one as the largest value to a usual one, so the walk's `_STANDARD` deviations are the bound for both.
    """
    import jax.numpy as jnp

    stored, summed = (float(jnp.finfo(kind).eps) / 2 for kind in (dtype, "float32"))
    return _STANDARD * gain * math.sqrt(count * (_ROUNDINGS * stored**2 + longest * summed**2))


def rows(context: Context) -> Iterator[Row]:
    """Yields the part's rows, each as soon as the device and the CPU have its value.

    XLA's choice of the quickest kernels by trying them is left out: it takes most of a compilation.
    """
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()
    folder = context.scratch / "reference"
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.accelerator_parts.correctness", str(folder), context.to_json()]
    with subprocess.Popen(command, env={**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}) as reference:
        outside = []
        for row in _compared(lambda number: _expected(folder, number, reference), context):
            yield row
            outside += [] if row["holds"] else [row["case"]]
    if outside:
        raise RuntimeError(f"outside their tolerance: {'; '.join(outside)}")


def _compared(expected: Callable[[int], np.ndarray], context: Context) -> Iterator[Row]:
    found = noise()
    yield from _noise_rows({name: expected(number) for number, name in enumerate(found)}, found)
    for dtype in ("float32", "bfloat16"):
        for number, (name, value) in enumerate(values(dtype, context), len(found)):
            yield _row(name, dtype, value, expected(number))


def _expected(folder: Path, number: int, reference: subprocess.Popen[bytes]) -> np.ndarray:
    """Returns the CPU's value number so and so, as soon as its process has written it."""
    file = folder / f"{number}.npy"
    while not file.is_file():
        if reference.poll() not in (None, 0):
            raise RuntimeError("the process that computes the CPU's values failed; its error stands above")
        time.sleep(0.05)
    return np.load(file)


def noise() -> dict[str, np.ndarray]:
    """Returns initial noise of some seeds, float32 [seeds, 4, 64, 64] as bits and as numbers, and the raw random bits."""
    import jax

    from bridgejax.diffusion.sampler import initial_noise
    from bridgejax.identity import keys_from_seeds

    keys = keys_from_seeds(_SEEDS)
    bits = jax.vmap(lambda key: jax.random.bits(key, (64, 64, 4), "uint32"))(keys)
    return {"noise": np.asarray(jax.jit(initial_noise, static_argnums=1)(keys, (64, 64, 4))), "bits": np.asarray(bits)}


def _noise_rows(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> Iterator[Row]:
    same = bool(np.array_equal(expected["bits"], found["bits"]))
    yield {"case": "random bits", "dtype": "uint32", "identical": same, "holds": same}
    left, right = (ordered(arrays["noise"]) for arrays in (expected, found))
    apart = np.abs(left - right)
    row: Row = {"case": "initial noise", "dtype": "float32", "identical": not apart.any(), "holds": not apart.any()}
    yield row | {"values that differ": f"{np.mean(apart > 0):.2%}", "units in the last place": int(apart.max())}


def ordered(array: np.ndarray) -> np.ndarray:
    """Returns float32 values as whole numbers, neighbours for neighbours, so that differences count last places."""
    bits = array.astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _row(name: str, dtype: str, value: Value, expected: np.ndarray) -> Row:
    scale = float(np.abs(expected).max())
    difference = float(np.abs(value.array - expected).max()) / scale if np.isfinite(value.array).all() else math.inf
    allowed = tolerance(dtype, value.count, value.longest, value.gain)
    return {
        "case": f"{name}, {dtype}",
        "dtype": dtype,
        "difference": difference,
        "tolerance": allowed,
        "products in a row": value.count,
        "holds": difference <= allowed,
    }


def values(dtype: str, context: Context) -> Iterator[tuple[str, Value]]:
    """Yields the name and value of everything that is compared, computed in `dtype` on the default device."""
    import jax

    with jax.default_matmul_precision("highest"):  # bfloat16 takes no notice
        yield from _generator_values(dtype, context.smoke)
        for name, (architecture, side, arguments) in (_SMOKE if context.smoke else _BACKBONES).items():
            model = random_classifier(architecture, context.scratch, side, **arguments)
            yield from _backbone_values(name, model, side, dtype)


def _generator_values(dtype: str, smoke: bool) -> Iterator[tuple[str, Value]]:
    from benchmarks.accelerator_parts.generators import one_call_products, random_pipeline
    from bridgejax.diffusion import load_pipeline

    def load(dtype: str) -> Any:
        return random_pipeline("small sd15", dtype) if smoke else load_pipeline(_BUILTIN, dtype)

    pipe = load(dtype)
    side = pipe.default_height // pipe.vae_factor
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, side, side, 4), np.float32)
    hidden = rng.standard_normal((2, 77, pipe.spec.unet["cross_attention_dim"]), np.float32)
    unet, decoder = one_call_products(load("float32").networks, side)
    yield "UNet call", Value(np.asarray(pipe.predict(latents, 500, hidden)), unet.count, unet.longest)
    yield "VAE decode", Value(np.asarray(pipe.decode(latents)), decoder.count, decoder.longest)
    noise = rng.standard_normal((2, side, side, 4), np.float32)
    images = pipe(["a photo of a bird", "a photo of a fish"], latents=noise, steps=_STEPS, guidance_scale=_GUIDANCE)
    # The weights of all steps' outputs in the last latents sum up to about one, so their errors do to that of one call.
    count = unet.count + decoder.count
    gain = math.hypot(_GUIDANCE, _GUIDANCE - 1)  # of two calls with independent errors
    yield f"sampler, {_STEPS} steps", Value(np.asarray(images), count, max(unet.longest, decoder.longest), gain)


def _backbone_values(name: str, model: Any, side: int, dtype: str) -> Iterator[tuple[str, Value]]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from benchmarks.accelerator_parts.products import products
    from benchmarks.accelerator_parts.steps import dtype_options, in_dtype, normalised, prepared
    from bridgejax.training import TrainState, make_optimizer, make_train_step

    pixels = np.random.default_rng(1).integers(0, 256, (8, side, side, 3), np.uint8)
    graph, state = nnx.split(in_dtype(model, dtype))
    counted = products(lambda x: model(x), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    logits = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, normalised(pixels, model, dtype))
    yield f"{name} logits", Value(np.asarray(logits, np.float32), counted.count, counted.longest)
    step = make_train_step(batch_norm="frozen", **dtype_options(dtype))
    model, images = prepared(model, pixels, dtype)
    batch = {"image": images, "label": np.arange(len(pixels))}
    _, metrics = step(TrainState.create(model, make_optimizer("sgd", 0.01)), batch)
    for key in ("loss", "gradient_norm"):
        # Backwards, each product becomes two: one for the weights and one for what is below.
        value = np.asarray(metrics[key], np.float32)
        yield f"{name} {key.replace('_', ' ')}", Value(value, 3 * counted.count, counted.longest)


def main() -> None:
    """Writes the CPU's values, one file each, whole or absent: noise and bits, then those of `values` in their order."""
    folder, context = Path(sys.argv[1]), Context.from_json(sys.argv[2])
    arrays = itertools.chain(noise().values(), (value.array for _, value in values("float32", context)))
    for number, array in enumerate(arrays):
        np.save(folder / ".new.npy", array)
        (folder / ".new.npy").replace(folder / f"{number}.npy")


if __name__ == "__main__":
    main()
