"""One call of a generator's UNet on the same random inputs, by bridgejax and by PyTorch diffusers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LATENTS, TIMESTEP = 64, 500
Call = Callable[[], np.ndarray]  # to the UNet's output, float32 NHWC


def inputs(folder: Path, batch: int) -> dict[str, Any]:
    """Returns the same random inputs for both: NHWC latents, text context and, for SDXL, a pooled embedding."""
    config = json.loads((folder / "unet" / "config.json").read_text())
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {
        "latents": rng.standard_normal((batch, LATENTS, LATENTS, 4), np.float32),
        "hidden": rng.standard_normal((batch, 77, config["cross_attention_dim"]), np.float32),
    }
    if config.get("addition_embed_type") == "text_time":
        found["pooled"] = rng.standard_normal((batch, 1280), np.float32)
    return found


def our_call(pipe: Any, folder: Path, batch: int) -> Call:
    """Returns the call of a loaded pipeline's UNet."""
    given = inputs(folder, batch)
    return lambda: np.asarray(pipe.predict(timestep=TIMESTEP, **given))


def torch_call(folder: Path, dtype: str, batch: int) -> Call:
    """Loads the UNet alone with diffusers and returns its call."""
    import torch
    from diffusers import UNet2DConditionModel

    kind = getattr(torch, dtype)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=kind).eval()
    given = {name: torch.from_numpy(array).to(kind) for name, array in inputs(folder, batch).items()}
    added = None
    if "pooled" in given:
        side = float(LATENTS * 8)
        ids = torch.tensor([[side, side, 0.0, 0.0, side, side]] * batch, dtype=kind)
        added = {"text_embeds": given["pooled"], "time_ids": ids}

    def call() -> np.ndarray:
        with torch.inference_mode():
            x = given["latents"].permute(0, 3, 1, 2)
            sample = unet(x, TIMESTEP, encoder_hidden_states=given["hidden"], added_cond_kwargs=added).sample
        return sample.permute(0, 2, 3, 1).float().numpy()

    return call
