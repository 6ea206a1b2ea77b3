"""Every scheduler in the whole pipeline beside PyTorch diffusers, from noise and from an image; options beside their class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from benchmarks.reduced.families import SCHEDULER_CLASSES, Original, measure_scheduler  # noqa: E402
from bridgejax.diffusion.schedulers import SCHEDULER_TYPES, make_scheduler  # noqa: E402


@pytest.fixture(scope="module")
def originals(tiny_folder: Path) -> list[Original]:
    return [Original(tiny_folder, double=double) for double in (False, True)]


def test_the_table_is_complete() -> None:
    assert set(SCHEDULER_CLASSES) == set(SCHEDULER_TYPES)


@pytest.mark.parametrize("start", [False, True], ids=["from noise", "from an image"])
@pytest.mark.parametrize("name", sorted(SCHEDULER_CLASSES))
def test_images_agree(name: str, start: bool, originals: list[Original], pipe: Any) -> None:
    row = measure_scheduler(name, start, pipe, *originals)
    assert row.ours <= row.allowed, f"{row.ours:.1e}, allowed {row.allowed:.1e}; PyTorch in single precision {row.single:.1e}"


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("euler", {"final_sigmas_type": "sigma_min"}),
    ("euler", {"interpolation_type": "log_linear"}),
    ("euler", {"use_karras_sigmas": True}),
    ("euler", {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 12.0, "final_sigmas_type": "sigma_min"}),
    ("euler", {"use_karras_sigmas": True, "interpolation_type": "log_linear", "timestep_spacing": "leading"}),
    ("dpmpp_2m", {"use_karras_sigmas": True}),
    ("dpmpp_2m", {"solver_order": 1}),
    ("dpmpp_2m", {"solver_type": "heun"}),
    ("dpmpp_2m", {"solver_type": "heun", "final_sigmas_type": "sigma_min"}),
    ("dpmpp_2m", {"final_sigmas_type": "sigma_min", "lower_order_final": False}),
    ("dpmpp_2m", {"final_sigmas_type": "sigma_min", "euler_at_final": True}),
    ("dpmpp_2m", {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"}),
    ("dpmpp_2m", {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "leading"}),
    ("lcm", {"timestep_scaling": 4.0, "original_inference_steps": 100, "clip_sample": True, "clip_sample_range": 0.7}),
    ("ddim", {"set_alpha_to_one": False, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}),
]


@pytest.mark.parametrize(("name", "config"), OPTIONS, ids=lambda value: ",".join(value) if isinstance(value, dict) else value)
def test_options_agree(name: str, config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options that only some of the classes have, on the same predictions."""
    import torch

    if config.get("rescale_betas_zero_snr"):
        config = {**config, "prediction_type": "v_prediction"}
    kind, extra = SCHEDULER_CLASSES[name]
    rng, current = np.random.default_rng(0), []
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: torch.from_numpy(current[-1]))
    for steps in (1, 7, 20):
        theirs = getattr(diffusers, kind)(**{"beta_schedule": "scaled_linear", **config, **extra})
        ours = make_scheduler(None, json.loads(theirs.to_json_string()))
        theirs.set_timesteps(steps)
        tables = ours.tables(steps)
        np.testing.assert_allclose(tables["timesteps"][:steps], theirs.timesteps, rtol=1e-5, atol=1e-3)
        x = rng.normal(size=(1, 4, 4, 4)).astype(np.float32)
        carry, latents = ours.start(tables, 0, x, None), torch.from_numpy(x) * theirs.init_noise_sigma
        for index, timestep in enumerate(theirs.timesteps):
            seen = theirs.scale_model_input(latents, timestep)
            np.testing.assert_allclose(ours.model_input(tables, index, carry), seen, rtol=1e-4, atol=1e-4)
            output = rng.normal(size=x.shape).astype(np.float32)
            current.append(rng.normal(size=x.shape).astype(np.float32))
            carry = ours.step(tables, index, carry, output, current[-1] if ours.stochastic else None)
            latents = theirs.step(torch.from_numpy(output), timestep, latents).prev_sample
            scale = max(1.0, float(latents.abs().max()))
            np.testing.assert_allclose(carry["latents"], latents, rtol=1e-4, atol=2e-4 * scale)


def test_every_option_of_the_originals_is_honoured_or_refused_by_name() -> None:
    """A new version of diffusers may bring an option: then this fails until the option is read, refused or passed over."""
    import inspect

    from bridgejax.diffusion.scheduler_base import COMMON, PASSED_OVER
    from bridgejax.diffusion.scheduler_base import ELSEWHERE as KNOWN

    for name, (kind, _) in SCHEDULER_CLASSES.items():
        options = set(inspect.signature(getattr(diffusers, kind).__init__).parameters) - {"self"}
        assert options <= {*COMMON, *SCHEDULER_TYPES[name].reads, *PASSED_OVER}, name
        assert set(SCHEDULER_TYPES[name].reads) <= options
        assert set(SCHEDULER_TYPES[name].reads) <= set(KNOWN)
