"""Ways to compute attention in bfloat16, by width of a head and length; `bridgejax.models.attention` picks one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.accelerator_parts.child import sentence
from benchmarks.accelerator_parts.context import Context
from benchmarks.accelerator_parts.measure import per_call
from benchmarks.accelerator_parts.record import Row

WIDTHS = (40, 64, 80, 128, 160)
# queries, keys: 77 are the tokens of a prompt that an image's positions attend to
LENGTHS = ((4096, 4096), (4096, 77), (1024, 1024), (256, 256))
_IMAGES, _HEADS = 4, 8


def rows(context: Context) -> Iterator[Row]:
    """Yields the part's rows: milliseconds of a call of each way, and the quickest one's rate."""
    import jax

    from bridgejax.models import attention

    def by(implementation: str) -> Callable[..., Any]:
        return lambda q, k, v: jax.nn.dot_product_attention(q, k, v, implementation=implementation)

    ways = {"picked": attention.attention, "cuDNN": by("cudnn"), "XLA": by("xla")}
    yield {"case": "shapes", "note": f"{_IMAGES} images, {_HEADS} heads, bfloat16, forward; milliseconds for a call."}
    for queries, keys in ((64, 64), (64, 77)) if context.smoke else LENGTHS:
        for width in (8, 160) if context.smoke else WIDTHS:
            q, k, v = (_random(number, length, width) for number, length in enumerate((queries, keys, keys)))
            row: Row = {"case": f"{queries}×{keys}, heads of {width}"}
            row["is picked"] = "cuDNN" if attention.fused(q.dtype, width) else "our own"
            for name, call in ways.items():
                try:
                    row[f"{name}, ms"] = 1e3 * _seconds(call, q, k, v)
                except Exception as error:  # a kernel that does not fit says so in an error of its own
                    row[f"{name}, ms"] = None
                    yield {"case": f"{name} {width}", "note": f"{name}, heads of {width}: {sentence(error)}"}
            times = [value for key, value in row.items() if key.endswith(", ms") and value]
            flops = 4.0 * _IMAGES * _HEADS * queries * keys * width
            yield row | context.share(flops / min(times) / 1e9)


def _seconds(call: Callable[..., Any], *arguments: Any) -> float:
    """Returns the seconds of one of many calls of a compiled function."""
    import jax

    program = jax.jit(lambda *given: call(*given))  # a function of its own each time
    return per_call(lambda: program(*arguments), at_least=0.05)


def _random(seed: int, length: int, width: int) -> Any:
    import jax

    return jax.random.normal(jax.random.key(seed), (_IMAGES, length, _HEADS, width), "bfloat16")
