"""Generating images, and one call of a full-size UNet, beside PyTorch diffusers, float32, on the CPU.

    python -m benchmarks generation [--only tiny unet] [--folder DIR] [--repeats 5] [--quick]

"tiny": `builtin:tiny_diffusion`, 32 images in 12 guided steps, prompt to pixels, against `StableDiffusionPipeline` on the same
folder from the same noise; --quick takes 4 images in 4 steps. "unet": one call of a UNet in Stable Diffusion 1.5's shape,
random weights, at 64×64 latents, batch 1 and 2; not in --quick: PyTorch writes 4.3 GB of weights first (into --folder, where
they stay; else into a temporary folder). Sides run in processes of their own and take turns. Keeps docs/results/generation.json
and .md.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import comparison
from benchmarks.harness import Case, Side
from benchmarks.worker import Prepared

PARTS = ("tiny", "unet")
GUIDANCE = 3.0
IMAGES, STEPS = 32, 12
QUICK_IMAGES, QUICK_STEPS = 4, 4
PROMPTS = ("a photo of a bird", "a photo of a vehicle", "a photo of a flower", "a photo of a tool")
IMAGE_TOLERANCE, UNET_TOLERANCE = 2e-3, 1e-3  # what docs/pipelines.md promises of images; of the UNet's largest value
_TINY = Path(__file__).resolve().parent.parent / "bridgejax" / "assets" / "tiny_diffusion"
_COUNTED = "counted by PyTorch's FlopCounterMode on the peer's network, with attention as its two matrix products"
_SHOWN = 256  # values that are compared


def tiny_case(images: int, steps: int) -> Case:
    """Returns the case of the embedded generator."""
    given = {"steps": steps}
    return Case(
        key=f"tiny {images} {steps}",
        what=f"tiny_diffusion, 64 px, {steps} guided steps",
        batch=images,
        ours=Side("bridgejax", "benchmarks.generation:our_images", given, caches=True),
        peers=[Side("diffusers", "benchmarks.generation:their_images", given)],
        tolerance=IMAGE_TOLERANCE,
        flops_by=_COUNTED,
    )


def unet_case(folder: Path, batch: int) -> Case:
    """Returns the case of a full-size UNet whose weights lie in a folder."""
    given = {"folder": str(folder)}
    return Case(
        key=f"sd15 unet {batch}",
        what="UNet of Stable Diffusion 1.5's shape, 64×64 latents, one call",
        batch=batch,
        ours=Side("bridgejax", "benchmarks.generation:our_unet", given, caches=True),
        peers=[Side("diffusers", "benchmarks.generation:their_unet", given)],
        tolerance=UNET_TOLERANCE,
        flops_by=_COUNTED,
    )


def noise(images: int) -> np.ndarray:
    """Returns the same noise for both sides, float32 NHWC."""
    return np.random.default_rng(0).standard_normal((images, 8, 8, 4), np.float32)


def prompts(images: int) -> list[str]:
    """Returns as many prompts."""
    return [PROMPTS[number % len(PROMPTS)] for number in range(images)]


def our_images(steps: int, batch: int) -> Prepared:
    """Prepares bridgejax's pipeline."""
    from bridgejax import runtime
    from bridgejax.diffusion import load_pipeline

    runtime.start()
    pipe = load_pipeline("builtin:tiny_diffusion", dtype="float32")
    latents, words = noise(batch), prompts(batch)
    return Prepared(
        lambda: np.asarray(pipe(words, latents=latents, steps=steps, guidance_scale=GUIDANCE)),
        lambda found: found[0].ravel()[:_SHOWN],
    )


def their_images(steps: int, batch: int) -> Prepared:
    """Prepares diffusers' pipeline."""
    import torch
    from diffusers import StableDiffusionPipeline

    torch.set_num_threads(os.cpu_count() or 1)
    pipe = StableDiffusionPipeline.from_pretrained(_TINY, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    latents = torch.from_numpy(noise(batch).transpose(0, 3, 1, 2).copy())
    words = prompts(batch)

    def call() -> Any:
        with torch.inference_mode():
            found = pipe(words, latents=latents, num_inference_steps=steps, guidance_scale=GUIDANCE, output_type="np")
        return found.images

    return Prepared(call, lambda found: found[0].ravel()[:_SHOWN], {"flops": _counted(call)})


def our_unet(folder: str, batch: int) -> Prepared:
    """Prepares bridgejax's UNet call."""
    from benchmarks.unet_calls import our_call
    from bridgejax import runtime
    from bridgejax.diffusion import load_pipeline

    runtime.start()
    place = Path(folder)
    return Prepared(our_call(load_pipeline(place, dtype="float32"), place, batch), lambda found: found.ravel()[:_SHOWN])


def their_unet(folder: str, batch: int) -> Prepared:
    """Prepares diffusers' UNet call."""
    import torch

    from benchmarks.unet_calls import torch_call

    torch.set_num_threads(os.cpu_count() or 1)
    call = torch_call(Path(folder), "float32", batch)
    return Prepared(call, lambda found: found.ravel()[:_SHOWN], {"flops": _counted(call)})


def _counted(call: Any) -> int:
    """Returns the operations of a call's convolutions and matrix products; attention that is fused the counter would miss."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def main(arguments: Sequence[str]) -> int:
    """Measures, prints and keeps.

    Raises:
      UserError: the weights of "unet" cannot be written, since a package is not installed.
    """
    parser = comparison.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts (both; with --quick tiny)")
    parser.add_argument("--folder", type=Path, help="where the weights of the UNet lie, or are written and kept")
    options = parser.parse_args(arguments)
    parts = options.only or (PARTS[:1] if options.quick else PARTS)

    def cases() -> Iterator[Case]:
        if "tiny" in parts:
            yield tiny_case(QUICK_IMAGES, QUICK_STEPS) if options.quick else tiny_case(IMAGES, STEPS)
        if "unet" not in parts:
            return
        from benchmarks.random_generator import write_in_process

        with tempfile.TemporaryDirectory(prefix="bridgejax-benchmark-") as scratch:
            folder = (options.folder or Path(scratch) / "sd15").resolve()
            if not (folder / "model_index.json").is_file():
                write_in_process(folder, "sd15")
            for batch in (1, 2):
                yield unet_case(folder, batch)

    return comparison.run("generation", arguments, options, cases())
