"""Guided generation at full size with random weights: images per second, and the share of the matrix rate that this is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.accelerator_parts.context import Context
from benchmarks.accelerator_parts.kernels import kinds_of_work
from benchmarks.accelerator_parts.measure import compilations, halving, peak_memory, seconds_of
from benchmarks.accelerator_parts.record import Row


@dataclass(frozen=True)
class Plan:
    """What is generated: steps of the scheduler, and batches in the order of their worth."""

    steps: int
    batches: tuple[int, ...]


PLANS = {"sd15": Plan(50, (16, 32)), "sdxl": Plan(30, (4, 1))}
SMOKE = Plan(2, (2,))
_GUIDANCE = 7.5


def rows(context: Context) -> Iterator[Row]:
    """Yields the rows of the part "sd15" or "sdxl"."""
    import jax

    from benchmarks.accelerator_parts.generators import PLANS as SIZES
    from benchmarks.accelerator_parts.generators import image_products, random_pipeline

    plan = SMOKE if context.smoke else PLANS[context.part]
    size = f"small {context.part}" if context.smoke else context.part
    began = time.perf_counter()
    pipe = random_pipeline(size, "bfloat16")
    jax.block_until_ready(pipe.split[1])
    weights = time.perf_counter() - began
    flops = image_products(size, plan.steps).flops
    values = sum(leaf.size for leaf in jax.tree.leaves(pipe.split[1]))
    side = SIZES[size]["unet"]["sample_size"] * pipe.vae_factor
    yield {
        "case": "model",
        "note": f"{values / 1e6:.1f} million random weights in bfloat16, made in {weights:.1f} s; {side}×{side} pixels, "
        f"{plan.steps} steps of DDIM with guidance {_GUIDANCE}: {flops / 1e12:.3g} TFLOP for an image.",
    }
    longest = 0.0
    measured: set[int] = set()
    for asked in plan.batches:
        if measured and context.left() < 1.2 * longest:
            yield {"case": f"batch {asked}", "note": f"batch {asked}: not begun, {context.left():.0f} s were left."}
            continue
        began = time.perf_counter()
        batch, row = halving(asked, lambda batch: _first(pipe, batch, plan.steps) if batch not in measured else {})
        longest = max(longest, time.perf_counter() - began)
        if batch < asked:
            yield {"case": f"batch {asked}", "note": f"Batch {asked} does not fit in the device's memory; {batch} does."}
        if batch in measured:
            continue
        measured.add(batch)
        case = f"batch {batch}"
        yield {"case": case, **row}
        seconds = min(seconds_of(lambda batch=batch: _images(pipe, batch, plan.steps)) for _ in range(2))
        rate = batch * flops / seconds / 1e12
        yield {"case": case, "images/s": batch / seconds, "step, ms": 1e3 * seconds / plan.steps} | context.share(rate)
        yield {"case": case} | peak_memory()
        yield {"case": case} | kinds_of_work(lambda batch=batch: _images(pipe, batch, plan.steps))


def _images(pipe: Any, batch: int, steps: int) -> Any:
    """Returns a batch of images that is under way."""
    return pipe(["a photo of a bird"] * batch, seeds=range(batch), steps=steps, guidance_scale=_GUIDANCE)


def _first(pipe: Any, batch: int, steps: int) -> Row:
    """Returns what the first batch of this size took, compilation included."""
    import jax.numpy as jnp

    with compilations() as told:
        began = time.perf_counter()
        images = _images(pipe, batch, steps).block_until_ready()
        seconds = time.perf_counter() - began
    return {"first images, s": seconds, "compile, s": told["compile, s"], "finite": bool(jnp.isfinite(images).all())}
