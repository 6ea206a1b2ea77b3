"""A folder of ours in PyTorch diffusers, and every scheduler's steps beside its class there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.reduced.families import SCHEDULER_CLASSES

pytestmark = pytest.mark.parity

PROMPTS = ["a photo of a cat", "two dogs, painted"]


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, 8, 8, 4)).astype(np.float32)


def nchw(x: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def test_our_folder_opens_in_diffusers(tiny_folder: Path, pipe: Any) -> None:
    """A folder written by `Pipeline.save` gives the same image in PyTorch."""
    pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(tiny_folder)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(PROMPTS, latents=nchw(noise()), num_inference_steps=4, guidance_scale=3.0, output_type="np").images
    np.testing.assert_allclose(pipe(PROMPTS, latents=noise(), steps=4, guidance_scale=3.0), expected, atol=2e-3)


SETTINGS = [
    {},
    {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing", "prediction_type": "sample"},
    {"timestep_spacing": "linspace", "set_alpha_to_one": False},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction", "clip_sample": False},
    {"clip_sample": True, "clip_sample_range": 0.4, "steps_offset": 1},
    {"trained_betas": list(np.linspace(0.001, 0.02, 100)), "num_train_timesteps": 100},
]


@pytest.mark.parametrize("config", SETTINGS)
@pytest.mark.parametrize("name", sorted(SCHEDULER_CLASSES))
def test_steps_agree(name: str, config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method beside its diffusers class, on the same predictions, from noise and from an image."""
    torch = pytest.importorskip("torch")
    import diffusers

    from bridgejax.diffusion.schedulers import make_scheduler

    kind, extra = SCHEDULER_CLASSES[name]
    if config.get("prediction_type") == "sample" and name in ("pndm", "euler_ancestral"):
        pytest.skip("not supported by the original")
    if name == "lcm":
        config = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "original_inference_steps": 50, **config}
    if name == "pndm" and config.get("rescale_betas_zero_snr"):
        pytest.skip("the original does not rescale")
    rng = np.random.default_rng(0)
    # The noise of the original comes from its own generator: hand it ours.
    current: list[np.ndarray] = []
    for module in ("scheduling_euler_ancestral_discrete", "scheduling_lcm"):
        monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", lambda *_, **__: torch.from_numpy(current[-1]))
    for steps, strength in ((1, 1.0), (2, 1.0), (7, 1.0), (20, 1.0), (20, 0.35)):
        theirs, ours = getattr(diffusers, kind).from_config({**config, **extra}), make_scheduler(name, config)
        theirs.set_timesteps(steps)
        tables = ours.tables(steps)
        assert ours.calls(steps) == len(theirs.timesteps)
        np.testing.assert_allclose(tables["timesteps"][: len(theirs.timesteps)], theirs.timesteps, rtol=1e-5, atol=1e-3)
        x, init = rng.normal(size=(2, 1, 4, 4, 4)).astype(np.float32)
        first = ours.first_call(steps, strength)
        if hasattr(theirs, "set_begin_index"):  # else it looks the first timestep up, which may stand there twice
            theirs.set_begin_index(first)
        if strength < 1:
            carry = ours.start(tables, first, x, init)
            latents = theirs.add_noise(torch.from_numpy(init), torch.from_numpy(x), theirs.timesteps[first : first + 1])
        else:
            carry, latents = ours.start(tables, 0, x, None), torch.from_numpy(x) * theirs.init_noise_sigma
        for index, timestep in enumerate(theirs.timesteps):
            if index < first:
                continue
            np.testing.assert_allclose(
                ours.model_input(tables, index, carry), theirs.scale_model_input(latents, timestep), rtol=2e-3, atol=2e-3
            )
            output = rng.normal(size=x.shape).astype(np.float32)
            current.append(rng.normal(size=x.shape).astype(np.float32))
            carry = ours.step(tables, index, carry, output, current[-1] if ours.stochastic else None)
            latents = theirs.step(torch.from_numpy(output), timestep, latents).prev_sample
            scale = max(1.0, float(latents.abs().max()))
            np.testing.assert_allclose(carry["latents"], latents, rtol=2e-3, atol=2e-3 * scale)
