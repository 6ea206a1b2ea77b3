"""Training steps of ResNet-50 and ViT-B/16 with bfloat16 arithmetic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.accelerator_parts.classifiers import random_classifier
from benchmarks.accelerator_parts.context import Context
from benchmarks.accelerator_parts.kernels import kinds_of_work
from benchmarks.accelerator_parts.measure import compilations, halving, peak_memory
from benchmarks.accelerator_parts.record import Row


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
      title: for readers.
      name: timm's.
      optimizer: "sgd" or "adamw".
      side: of its images in pixels.
      batch: how many of them at once.
      arguments: timm's, for networks that are smaller than the published ones.
    """

    title: str
    name: str
    optimizer: str
    side: int = 224
    batch: int = 256
    arguments: dict[str, Any] = field(default_factory=dict)


WORK = (Work("ResNet-50", "resnet50", "sgd"), Work("ViT-B/16", "vit_base_patch16_224", "adamw"))
SMOKE = (
    Work("small ResNet", "resnet18", "sgd", 32, 4, {"layers": [1, 1, 1, 1]}),
    Work("small ViT", "vit_tiny_patch16_224", "adamw", 32, 4, {"depth": 1}),
)
STEPS, ROUNDS = 20, 3
RATE = 0.01


def plan(context: Context) -> tuple[tuple[Work, ...], int]:
    """Returns what is trained and the steps of a round."""
    return (SMOKE, 2) if context.smoke else (WORK, STEPS)


def rows(context: Context) -> Iterator[Row]:
    """Yields the part's rows."""
    import jax
    import jax.numpy as jnp

    from benchmarks.accelerator_parts.products import products
    from benchmarks.accelerator_parts.steps import step_has_dtype

    how = "the step's dtype argument" if step_has_dtype() else "weights, optimiser and images in bfloat16"
    works, steps = plan(context)
    yield {"case": "how", "note": f"bfloat16 by {how}; FLOP of a step: three times those of a forward pass."}
    for work in works:
        model = random_classifier(work.name, context.scratch, work.side, **work.arguments)
        image = jax.ShapeDtypeStruct((1, work.side, work.side, 3), jnp.float32)
        flops = 3 * products(lambda x, model=model: model(x), image).flops
        batch, found = halving(work.batch, lambda batch, work=work, model=model: measure(work, model, batch, steps))
        note = {} if batch == work.batch else {"note": f"{work.batch} do not fit"}
        rate = batch * flops / found["step, ms"] / 1e9
        cells = context.share(rate)
        yield {"case": work.title, "batch": batch, "images/s": 1e3 * batch / found["step, ms"], **found, **cells, **note}
    yield {"case": works[-1].title} | peak_memory()


def measure(work: Work, model: Any, batch: int, steps: int) -> Row:
    """Returns the time of a step, and what its first call took."""
    import jax

    from benchmarks.accelerator_parts.steps import dtype_options, prepared
    from bridgejax.training import TrainState, make_optimizer, make_train_step

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch, work.side, work.side, 3), np.uint8)
    model, images = prepared(model, pixels, "bfloat16")
    given = jax.device_put({"image": images, "label": rng.integers(0, 1000, batch, np.int32)})
    state = TrainState.create(model, make_optimizer(work.optimizer, RATE * (1 if work.optimizer == "sgd" else 0.01)))
    step = make_train_step(**dtype_options("bfloat16"))
    with compilations() as told:
        began = time.perf_counter()
        state, metrics = step(state, given)
        jax.block_until_ready(metrics)
        first = time.perf_counter() - began
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(steps):
            state, metrics = step(state, given)
        jax.block_until_ready(metrics)
        best = min(best, (time.perf_counter() - began) / steps)
    kinds = kinds_of_work(lambda: step(state, given))  # donates the state, which is not needed any more
    return {"step, ms": 1e3 * best, "first step, s": first, **told, "loss": float(metrics["loss"]), **kinds}
