"""The device, its software, and the rate of its matrix products."""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.accelerator_parts.context import Context
from benchmarks.accelerator_parts.measure import halving
from benchmarks.accelerator_parts.record import Row

_DRIVER = Path("/proc/driver/nvidia/version")
# dtype, precision of the product, name of the case
RATES = (
    ("bfloat16", "default", "bfloat16 matrices"),
    ("float32", "default", "float32 matrices, default precision (TF32 on NVIDIA)"),
    ("float32", "highest", "float32 matrices, highest precision"),
)
SIDES, SMOKE_SIDES = (8192, 16384), (256, 128)
_CHAIN = 8  # products in one program, each with the last one's result


def rows(context: Context) -> Iterator[Row]:
    """Yields the part's rows."""
    yield {"case": "device", **device_facts()}
    for dtype, precision, case in RATES:
        best = 0.0
        sides = SMOKE_SIDES if context.smoke else SIDES
        for side in sides if dtype == "bfloat16" else sides[:1]:
            fits, rate = halving(side, functools.partial(matrix_rate, dtype=dtype, precision=precision))
            if rate > best:
                best = rate
                yield {"case": case, "TFLOP/s": rate, "side of the matrices": fits}


def device_facts() -> Row:
    """Returns what JAX and the environment tell."""
    import jax
    import jaxlib

    device = jax.devices()[0]
    facts: Row = {"device": device.device_kind, "platform": jax.default_backend(), "devices": jax.device_count()}
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        facts["memory that JAX may take, GiB"] = stats["bytes_limit"] / 2**30
    facts["runtime"] = device.client.platform_version
    if _DRIVER.is_file():
        facts["driver"] = _DRIVER.read_text().splitlines()[0]
    if (capability := getattr(device, "compute_capability", None)) is not None:
        facts["compute capability"] = str(capability)
    facts |= {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "Python": platform.python_version()}
    facts["CPU cores"] = os.cpu_count()
    for name in ("XLA_FLAGS", "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION", "JAX_PLATFORMS"):
        facts[name] = os.environ.get(name, "not set")
    return facts


def matrix_rate(side: int, dtype: str, precision: str) -> float:
    """Returns the rate of square matrix products, in TFLOP/s: the quickest of some programs of several products each."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    def chain(a: jax.Array, b: jax.Array) -> jax.Array:
        return lax.fori_loop(0, _CHAIN, lambda _, x: jnp.matmul(x, b, precision=precision).astype(b.dtype), a)

    program = jax.jit(chain, donate_argnums=0)
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (side, side), dtype) for key in keys)
    b = b / side**0.5  # so that the values stay near 1
    seconds = []
    for _ in range(5):  # the first one compiles
        began = time.perf_counter()
        a = jax.block_until_ready(program(a, b))
        seconds.append(time.perf_counter() - began)
    return 2.0 * side**3 * _CHAIN / min(seconds[1:]) / 1e12
