"""Ways to compute a convolution on a CPU and its two derivatives, beside PyTorch's; float32.

    python -m benchmarks convolutions [--quick] [--page]

The shapes are those of ResNet-18 and 50, EfficientNet-Lite0, and Stable Diffusion's UNet and autoencoder. Every way that
exists for a shape is timed in turns, compiled as train steps are; a row names what `bridgejax.models.convolution.ways` takes
and, where another way took less than nine tenths of its time, that one. `--page` writes docs/results/convolutions.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from benchmarks.harness import REST_SECONDS, ROOT, MissingPackage, Worker
from benchmarks.result_tables import table
from benchmarks.worker import Prepared

RESULTS = ROOT / "docs" / "results" / "convolutions.md"
DIRECTIONS = ("forward", "input_gradient", "kernel_gradient")
# Another way is named where it took less than this share of the time of the one that is taken.
NAMED_BELOW = 0.9


class Shape(NamedTuple):
    """A convolution: images of `side`², channels in and out, kernel and stride; padded so that stride 1 keeps the size."""

    network: str
    images: int
    side: int
    channels: int
    features: int
    kernel: int = 3
    stride: int = 1

    @property
    def pads(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros on every side."""
        return ((self.kernel // 2,) * 2,) * 2

    @property
    def outputs(self) -> int:
        """The side of the result."""
        return (self.side + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1


SHAPES = (
    Shape("ResNet stem, 224 px", 16, 224, 3, 64, 7, 2),
    Shape("ResNet-18, 224 px", 16, 56, 64, 64),
    Shape("ResNet-18, 224 px", 16, 56, 64, 128, 3, 2),
    Shape("ResNet-18, 224 px", 16, 28, 128, 128),
    Shape("ResNet-18, 224 px", 16, 14, 256, 256),
    Shape("ResNet-18, 224 px", 16, 7, 512, 512),
    Shape("ResNet-18, 96 px", 32, 24, 64, 64),
    Shape("ResNet-18, 96 px", 32, 12, 128, 128),
    Shape("ResNet-18, 64 px", 32, 16, 64, 64),
    Shape("ResNet-18, 64 px", 32, 8, 128, 256, 3, 2),
    Shape("ResNet-18, 64 px", 32, 4, 256, 256),
    Shape("ResNet-18, 64 px", 32, 4, 256, 512, 3, 2),
    Shape("ResNet-18, 64 px", 32, 2, 512, 512),
    Shape("ResNet-50, 224 px", 8, 28, 128, 128, 3, 2),
    Shape("EfficientNet-Lite0 stem, 96 px", 32, 96, 3, 32, 3, 2),
    Shape("SD 1.5 UNet", 2, 64, 4, 320),
    Shape("SD 1.5 UNet", 2, 64, 320, 320),
    Shape("SD 1.5 UNet", 2, 32, 640, 640),
    Shape("SD 1.5 UNet", 2, 16, 1280, 1280),
    Shape("SD 1.5 UNet", 2, 8, 1280, 1280),
    Shape("SD autoencoder, 256 px", 1, 256, 128, 128),
)
QUICK = tuple(shape for shape in SHAPES if shape.network == "ResNet-18, 64 px")


def arrays(shape: Shape) -> tuple[Any, Any, Any]:
    """Returns images [n, h, w, i], a kernel [a, b, i, o] and an output's gradient [n, h', w', o], standard normal."""
    import numpy as np

    rng = np.random.default_rng(0)
    sizes = (
        (shape.images, shape.side, shape.side, shape.channels),
        (shape.kernel, shape.kernel, shape.channels, shape.features),
        (shape.images, shape.outputs, shape.outputs, shape.features),
    )
    x, kernel, grad = (rng.standard_normal(size, np.float32) for size in sizes)
    return x, kernel, grad


def theirs(shape: Sequence[Any], direction: str) -> Prepared:
    """Prepares PyTorch's, with the channels last."""
    import torch

    made = Shape(*shape)
    torch.set_num_threads(os.cpu_count() or 1)
    x, kernel, grad = map(torch.from_numpy, arrays(made))
    x, grad = x.permute(0, 3, 1, 2), grad.permute(0, 3, 1, 2)
    kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    sides = [made.kernel // 2] * 2
    if direction == "forward":
        return Prepared(partial(torch.nn.functional.conv2d, x, kernel, stride=made.stride, padding=sides[0]))
    wanted = [direction == "input_gradient", direction == "kernel_gradient", False]
    strides, nothing = [made.stride] * 2, [0, 0]
    backward = torch.ops.aten.convolution_backward
    return Prepared(lambda: backward(grad, x, kernel, None, strides, sides, [1, 1], False, nothing, 1, wanted))


def calls(shape: Shape, direction: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yields the ways that exist, compiled."""
    import jax
    from jax import lax

    from bridgejax.compilation import compiler_options
    from bridgejax.models import unfolded, winograd
    from bridgejax.models.convolution import ways

    x, kernel, grad = arrays(shape)
    stride, pads = shape.stride, shape.pads

    def xla(x: Any, kernel: Any) -> Any:
        return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    made: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
        "xla": (
            lambda x, k, g: xla(x, k),
            lambda x, k, g: jax.linear_transpose(lambda x: xla(x, k), x)(g),
            lambda x, k, g: jax.linear_transpose(lambda k: xla(x, k), k)(g),
        ),
        "unfolded": (
            lambda x, k, g: unfolded.forward(x, k, stride, pads),
            lambda x, k, g: unfolded.input_gradient(g, k, x.shape, stride, pads),
            lambda x, k, g: unfolded.kernel_gradient(x, g, k.shape[:2], stride, pads),
        ),
        "winograd": (
            lambda x, k, g: winograd.forward(x, k, pads),
            lambda x, k, g: winograd.input_gradient(g, k, pads),
            lambda x, k, g: winograd.kernel_gradient(x, g, pads),
        ),
    }
    taken = getattr(ways(x.shape, kernel.shape, stride, pads), direction)
    if (shape.kernel, stride) != (3, 1):
        del made["winograd"]
    for name, directions in made.items():
        if name == "xla" and taken == "unfolded":
            continue  # the plain loop: a hundred times slower
        program = jax.jit(directions[DIRECTIONS.index(direction)], compiler_options=compiler_options(reduces=True))
        on_device = jax.device_put((x, kernel, grad))
        yield name, partial(_finished, program, on_device)


def _finished(program: Callable[..., Any], arguments: Sequence[Any]) -> None:
    import jax

    jax.block_until_ready(program(*arguments))


def row(shape: Shape, direction: str, peer: Worker | None, rounds: int) -> list[str]:
    """Returns the table's row of a shape and a direction."""
    from bridgejax.models.convolution import ways

    programs = dict(calls(shape, direction))
    for program in programs.values():
        program()
    if peer is not None:
        peer.prepare(shape=list(shape), direction=direction)
    seconds: dict[str, list[float]] = {name: [] for name in (*programs, "PyTorch")}
    for _ in range(rounds):
        for name, program in programs.items():
            began = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - began)
        if peer is not None:
            seconds["PyTorch"] += peer.run(1)["seconds"]
            time.sleep(REST_SECONDS / rounds)
    found = {name: 1000 * statistics.median(times) for name, times in seconds.items() if times}
    sizes = (shape.images, shape.side, shape.side, shape.channels), (shape.kernel,) * 2 + (shape.channels, shape.features)
    taken = getattr(ways(*sizes, shape.stride, shape.pads), direction)
    best = min(programs, key=found.__getitem__)
    told = f"{shape.images} × {shape.side}² × {shape.channels} → {shape.features}, {shape.kernel}×{shape.kernel}"
    cells = [f"{found[name]:.3g}" if name in found else "" for name in ("xla", "unfolded", "winograd", "PyTorch")]
    ratio = f"{found[taken] / found['PyTorch']:.2f}" if "PyTorch" in found else ""
    quicker = best if found[best] < NAMED_BELOW * found[taken] else ""
    stride = f" / {shape.stride}" if shape.stride > 1 else ""
    return [shape.network, told + stride, direction.replace("_", " "), *cells, taken, ratio, quicker]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the shapes of ResNet-18 at 64 px, few rounds")
    parser.add_argument("--page", action="store_true", help="write docs/results/convolutions.md")
    options = parser.parse_args(arguments)
    if options.quick and options.page:
        parser.error("--quick measures too little for the page; leave out one of --quick and --page")
    rows = []
    with Worker("benchmarks.convolutions:theirs") as worker:
        peer: Worker | None = worker
        try:
            worker.prepare(shape=list(QUICK[0]), direction="forward")
        except MissingPackage as error:
            print(f"convolutions: {error}", file=sys.stderr)
            peer = None
        for shape, direction in itertools.product(QUICK if options.quick else SHAPES, DIRECTIONS):
            rows.append(row(shape, direction, peer, 3 if options.quick else 9))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    head = ["network", "images × positions × channels, kernel / stride", "direction", "XLA", "unfolded", "Winograd", "PyTorch"]
    lines = table([*head, "taken", "taken ÷ PyTorch", "quicker"], rows)
    text = "# Ways to compute convolutions\n\n`python -m benchmarks convolutions --page`, on "
    text += f"{os.cpu_count()} CPU cores; medians in ms.\n\n"
    print(text := text + "\n".join(lines) + "\n")
    if options.page:
        RESULTS.write_text(text, encoding="utf-8")
