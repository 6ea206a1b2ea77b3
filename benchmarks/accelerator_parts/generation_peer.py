"""Guided denoising steps of PyTorch at Stable Diffusion 1.5's shape, by diffusers' UNet or a hand-written one like it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.accelerator_parts.context import Context
from benchmarks.accelerator_parts.measure import halving
from benchmarks.accelerator_parts.record import Row

BATCHES = (16, 8)
_TOKENS = 77
_COMPILING = 25.0  # seconds without which torch.compile is not begun


def rows(context: Context) -> Iterator[Row]:
    """Yields the part's rows; a single note where PyTorch is missing."""
    try:
        import torch
    except ImportError as error:
        yield {"case": "how", "note": f"No peer was measured ({error}): `pip install torch diffusers`."}
        return
    from benchmarks.accelerator_parts.torch_device import torch_device

    device, missing = torch_device()
    if missing and not context.smoke:
        yield {"case": "how", "note": missing}
        return
    config = unet_config(context.smoke)
    unet, what = build(config, device)
    values = sum(parameter.numel() for parameter in unet.parameters())
    yield {
        "case": "how",
        "note": f"PyTorch {torch.__version__}, {what}, {values / 1e6:.1f} million values in bfloat16, channels last, on "
        f"{device}. A step is one UNet call on both halves of guidance: neither text nor autoencoder, which our steps contain.",
    }
    kinds = [("eager", unet)] if context.smoke else [("eager", unet), ("torch.compile", torch.compile(unet, dynamic=False))]
    for kind, call in kinds:
        for asked in (2,) if context.smoke else BATCHES:
            if kind != "eager" and context.left() < _COMPILING:
                yield {
                    "case": f"{kind} {asked}",
                    "note": f"{kind}, batch {asked}: not begun, {context.left():.0f} s were left.",
                }
                continue
            batch, (first, step) = halving(asked, lambda batch, call=call: measure(call, batch, config, device))
            row: Row = {"case": f"{kind}, batch {batch}", "step, ms": 1e3 * step, "first step, s": first}
            yield row | {"images/s of 50 steps": batch / (50 * step)}


def unet_config(smoke: bool) -> dict[str, Any]:
    """Returns the config of the UNet."""
    from benchmarks.accelerator_parts.generators import PLANS

    return PLANS["small sd15" if smoke else "sd15"]["unet"]


def build(config: dict[str, Any], device: Any) -> tuple[Callable[..., Any], str]:
    """Returns a UNet in bfloat16, called with latents, time steps and text, and what it is."""
    import torch

    torch.manual_seed(0)
    try:
        from diffusers import UNet2DConditionModel
    except ImportError:
        from benchmarks.accelerator_parts.torch_unet import UNet

        unet, what = UNet(config), "a hand-written UNet of the same structure (diffusers is not installed)"
    else:
        unet, what = UNet2DConditionModel(**config), "the UNet of diffusers"
    return unet.to(device, torch.bfloat16, memory_format=torch.channels_last).eval(), what


def measure(unet: Callable[..., Any], batch: int, config: dict[str, Any], device: Any) -> tuple[float, float]:
    """Returns the seconds of the first step and of one of many later ones, `batch` images with guidance."""
    import torch

    from benchmarks.accelerator_parts.torch_device import synchronise

    side, count = config["sample_size"], 2 * batch
    options = {"dtype": torch.bfloat16, "device": device}
    latents = torch.randn(count, 4, side, side, **options).to(memory_format=torch.channels_last)
    timestep = torch.full((count,), 500, device=device)
    text = torch.randn(count, _TOKENS, config["cross_attention_dim"], **options)
    seconds = []
    with torch.inference_mode():
        for calls in (1, 2, 5, 5):  # the first one compiles, or chooses kernels; the second warms up
            began = time.perf_counter()
            for _ in range(calls):
                unet(latents, timestep, text)
            synchronise(device)
            seconds.append((time.perf_counter() - began) / calls)
    return seconds[0], min(seconds[2:])
