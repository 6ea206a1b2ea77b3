"""Times the ways in which convolutions and attention can be computed on this CPU; the layers' choices rest on it.

    python benchmarks/layers.py [--page]

For each shape of Stable Diffusion's UNets: a 3×3 convolution as XLA does it and as one matrix product of the pixels under each
tap side by side (`bridgejax.models.conv`), and attention with all heads at once and head by head in blocks of queries
(`bridgejax.models.attention`), compiled as pipelines are. The quickest of several calls counts. "taken" is the way that the
layer takes of itself. --page writes docs/results/layers.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "layers.md"
PADDING = ((1, 1), (1, 1))
# images, side, channels in, channels out
CONVOLUTIONS = (
    (1, 8, 1280, 1280),
    (2, 8, 2560, 1280),
    (8, 8, 1280, 1280),
    (1, 16, 1280, 1280),
    (2, 16, 1920, 1280),
    (8, 16, 1280, 1280),
    (2, 16, 640, 1280),
    (2, 32, 1280, 640),
    (1, 32, 640, 640),
    (2, 64, 320, 320),
    (2, 8, 192, 192),
    (32, 16, 96, 96),
)
# images, positions, heads, width
ATTENTIONS = ((1, 4096, 8, 40), (2, 4096, 8, 40), (2, 1024, 8, 80), (2, 256, 8, 160), (1, 4096, 10, 64), (2, 1024, 20, 64))
QUERIES = (128, 256, 512, 1024, 2048)


def seconds(call: Callable[..., Any], *arguments: Any, repeat: int = 5) -> float:
    """Returns the time of the quickest call after one that compiles."""
    import jax

    from bridgejax.programs import compiler_options

    program = jax.jit(call, compiler_options=compiler_options())
    jax.block_until_ready(program(*arguments))
    found = []
    for _ in range(repeat):
        began = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        found.append(time.perf_counter() - began)
    return min(found)


def convolutions() -> list[str]:
    """Returns the rows of the convolutions."""
    import jax

    from bridgejax.models import conv

    rows = []
    for images, side, features, out in CONVOLUTIONS:
        x = jax.random.normal(jax.random.key(0), (images, side, side, features))
        kernel = jax.random.normal(jax.random.key(1), (3, 3, features, out)) / features
        xla = seconds(lambda x, k: conv._convolution(x, k, 1, PADDING), x, kernel)
        product = seconds(lambda x, k: conv._side_by_side(x, k, PADDING), x, kernel)
        taken = "product" if features * out >= conv._KERNEL_BOUND * images * side * side else "XLA's"
        shape = f"{images}×{side}×{side}×{features} → {out}"
        rows.append(f"| {shape} | {1000 * xla:.1f} | {1000 * product:.1f} | {xla / product:.2f} | {taken} |")
        print(rows[-1], flush=True)
    return rows


def attentions() -> list[str]:
    """Returns the rows of attention."""
    import jax

    from bridgejax.models import attention

    rows, bounds = [], (attention._CACHED_SCORES, attention._CPU_QUERIES)
    for images, positions, heads, width in ATTENTIONS:
        q, k, v = jax.random.normal(jax.random.key(0), (3, images, positions, heads, width))
        attention._CACHED_SCORES = attention._MAX_SCORES
        times = [seconds(lambda q, k, v: attention.attention(q, k, v), q, k, v, repeat=3)]
        attention._CACHED_SCORES = 0
        for attention._CPU_QUERIES in QUERIES:
            few = positions >= attention._CPU_QUERIES
            times.append(seconds(lambda q, k, v: attention.attention(q, k, v), q, k, v, repeat=3) if few else float("nan"))
        attention._CACHED_SCORES, attention._CPU_QUERIES = bounds
        taken = bounds[1] if images * heads * positions**2 > bounds[0] else "all"
        cells = " | ".join("" if value != value else f"{1000 * value:.0f}" for value in times)
        rows.append(f"| {images}×{positions}, {heads} heads of {width} | {cells} | {taken} |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measures and prints, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write docs/results/layers.md")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    text = (
        f"# Ways to compute a layer\n\n`python benchmarks/layers.py --page`, on {os.cpu_count()} CPU cores; milliseconds.\n\n"
    )
    text += "| 3×3 convolution | XLA's | product | XLA's over product | taken |\n| --- | ---: | ---: | ---: | --- |\n"
    text += "\n".join(convolutions())
    text += f"\n\n| attention | all heads at once |{''.join(f' {count} queries |' for count in QUERIES)} taken |\n"
    text += f"| --- |{' ---: |' * (len(QUERIES) + 1)} --- |\n" + "\n".join(attentions()) + "\n"
    if options.page:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
