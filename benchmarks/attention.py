"""Times the ways in which attention can be computed on this CPU; `bridgejax.models.attention` chooses by it.

    python -m benchmarks attention [--quick] [--page]

For shapes of Stable Diffusion's UNets, compiled as pipelines are: all heads at once, and head by head in blocks of so many
queries. The quickest of several calls counts. "taken" is the way that the layer takes of itself. --quick takes three small
shapes. --page writes docs/results/attention.md.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "attention.md"
# images, positions, heads, width
SHAPES = (
    (1, 4096, 8, 40),
    (2, 4096, 8, 40),
    (2, 1024, 8, 80),
    (1, 1024, 8, 80),
    (1, 512, 8, 80),
    (2, 256, 8, 160),
    (8, 256, 8, 160),
    (1, 4096, 10, 64),
    (2, 1024, 20, 64),
)
QUICK = ((1, 512, 8, 80), (2, 256, 8, 160), (1, 1024, 8, 80))
QUERIES = (128, 256, 512, 1024, 2048)


def milliseconds(call: Callable[..., Any], *arguments: Any) -> float:
    """Returns the time of the quickest of four calls after one that compiles."""
    import jax

    from bridgejax.compilation import compiler_options

    program = jax.jit(call, compiler_options=compiler_options())
    jax.block_until_ready(program(*arguments))
    found = []
    for _ in range(4):
        began = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        found.append(time.perf_counter() - began)
    return 1000 * min(found)


def row(images: int, positions: int, heads: int, width: int) -> str:
    """Returns the table's row of a shape."""
    import jax

    from bridgejax.models import attention

    q, k, v = jax.random.normal(jax.random.key(0), (3, images, positions, heads, width))
    bounds = attention._CACHED_SCORES, attention._CPU_QUERIES

    def taking(cached: int, queries: int) -> str:
        attention._CACHED_SCORES, attention._CPU_QUERIES = cached, queries
        # A function of its own each time, or JAX would remember the last one's trace.
        return f"{milliseconds(lambda q, k, v: attention.attention(q, k, v), q, k, v):.0f}"

    cells = [taking(attention._MAX_SCORES, bounds[1])]
    cells += [taking(0, queries) if queries <= positions else "" for queries in QUERIES]
    attention._CACHED_SCORES, attention._CPU_QUERIES = bounds
    taken = f"{min(positions, bounds[1])}" if positions**2 > bounds[0] else "all"
    text = f"| {images}×{positions}, {heads} heads of {width} | {' | '.join(cells)} | {taken} |"
    print(text, flush=True)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three small shapes")
    parser.add_argument("--page", action="store_true", help="write docs/results/attention.md")
    options = parser.parse_args(arguments)
    if options.quick and options.page:
        parser.error("--quick measures too little for the page; leave out one of --quick and --page")
    shapes = QUICK if options.quick else SHAPES
    text = f"# Ways to compute attention\n\n`python -m benchmarks attention --page`, on {os.cpu_count()} CPU cores; in ms.\n"
    text += f"\n| images × positions | all heads at once |{''.join(f' {count} queries |' for count in QUERIES)} taken |\n"
    text += f"| --- |{' ---: |' * (len(QUERIES) + 1)} --- |\n" + "\n".join(row(*shape) for shape in shapes) + "\n"
    if options.page:
        RESULTS.write_text(text)
