"""The samplers' tables and the refusal of what they do not support. Agreement with diffusers is in the parity tests."""

from __future__ import annotations

import numpy as np
import pytest

from bridgejax.diffusion.schedulers import SCHEDULERS, Settings, make_scheduler
from bridgejax.errors import UserError


@pytest.mark.parametrize(
    ("spacing", "offset", "expected"),
    [("leading", 1, [751, 501, 251, 1]), ("trailing", 0, [999, 749, 499, 249]), ("linspace", 0, [999, 666, 333, 0])],
)
def test_timesteps_of_each_spacing(spacing: str, offset: int, expected: list[int]) -> None:
    settings = Settings(timestep_spacing=spacing, steps_offset=offset)
    np.testing.assert_array_equal(settings.timesteps(4, "leading"), expected)


def test_zero_terminal_snr() -> None:
    alphas = Settings(rescale_betas_zero_snr=True).alphas_cumulative()
    plain = Settings().alphas_cumulative()
    assert alphas[-1] == 0
    np.testing.assert_allclose(alphas[0], plain[0])


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_tables_have_one_length_for_all_steps(name: str) -> None:
    scheduler = make_scheduler(name, {})
    shapes = [{key: np.shape(row) for key, row in scheduler.tables(steps).items()} for steps in (1, 7, scheduler.max_steps)]
    assert all(shape == shapes[0] for shape in shapes)
    assert hash(scheduler) == hash(make_scheduler(name, {}))


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_exact_noise_predictions_lead_back_to_the_sample(name: str) -> None:
    """With a model that always tells the truth about x = α · sample + σ · noise, every method ends at the sample."""
    scheduler = make_scheduler(
        name, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    )
    rng = np.random.default_rng(0)
    sample, noise = rng.normal(size=(2, 1, 4, 4, 4)).astype(np.float32)
    tables, steps = scheduler.tables(20), 20
    alphas = Settings.from_config(
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    ).alphas_cumulative()
    first = scheduler.first_call(steps, 0.8)
    carry = scheduler.start(tables, first, noise, sample)
    for index in range(first, scheduler.calls(steps)):
        alpha = alphas[int(tables["timesteps"][index])]
        seen = np.asarray(scheduler.model_input(tables, index, carry))
        carry = scheduler.step(tables, index, carry, (seen - alpha**0.5 * sample) / (1 - alpha) ** 0.5, noise)
    np.testing.assert_allclose(carry["latents"], sample, atol=0.1)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"prediction_type": "flow"}, "prediction_type"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule"),
        ({"timestep_spacing": "log"}, "timestep_spacing"),
        ({"thresholding": True}, "thresholding"),
    ],
)
def test_unsupported_settings_are_named(config: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        make_scheduler("ddim", config)


def test_unknown_schedulers_list_what_exists() -> None:
    with pytest.raises(UserError, match="'ddim'"):
        make_scheduler("ddmi", {})
    with pytest.raises(UserError, match="HeunDiscreteScheduler is not available; pass scheduler="):
        make_scheduler(None, {"_class_name": "HeunDiscreteScheduler"})
