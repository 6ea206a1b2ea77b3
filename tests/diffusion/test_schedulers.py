"""The samplers' tables and the refusal of what they do not support. Agreement with diffusers is in the parity tests."""

from __future__ import annotations

import numpy as np
import pytest

from bridgejax.diffusion.schedulers import LCM, SCHEDULERS, Settings, make_scheduler
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
    ("name", "config", "named"),
    [
        ("ddim", {"prediction_type": "flow"}, "prediction_type"),
        ("ddim", {"prediction_type": None}, "prediction_type"),
        ("ddim", {"beta_schedule": "sigmoid"}, "beta_schedule"),
        ("ddim", {"timestep_spacing": "log"}, "timestep_spacing"),
        ("ddim", {"thresholding": True}, "thresholding"),
        ("lcm", {"thresholding": True}, "thresholding"),
        ("pndm", {"skip_prk_steps": False}, "skip_prk_steps"),
        ("euler", {"interpolation_type": "cubic"}, "interpolation_type"),
        ("euler", {"timestep_type": "continuous"}, "timestep_type"),
        ("euler", {"final_sigmas_type": "half"}, "final_sigmas_type"),
        ("euler", {"use_beta_sigmas": True}, "use_beta_sigmas"),
        ("euler", {"use_exponential_sigmas": True}, "use_exponential_sigmas"),
        ("dpmpp_2m", {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
        ("dpmpp_2m", {"solver_order": 3}, "solver_order"),
        ("dpmpp_2m", {"solver_type": "bh2"}, "solver_type"),
        ("dpmpp_2m", {"variance_type": "learned_range"}, "variance_type"),
        ("dpmpp_2m", {"use_lu_lambdas": True}, "use_lu_lambdas"),
        ("dpmpp_2m", {"use_flow_sigmas": True}, "use_flow_sigmas"),
        ("dpmpp_2m", {"use_dynamic_shifting": True}, "use_dynamic_shifting"),
    ],
)
def test_unsupported_settings_are_named(name: str, config: dict, named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        make_scheduler(name, config)
    assert "\n" not in str(caught.value)


def test_options_of_other_schedulers_are_passed_over() -> None:
    """As in diffusers, a scheduler made of another's config takes what it knows."""
    config = {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "steps_offset": 1, "new": 1}
    assert make_scheduler("euler", config).settings == Settings(steps_offset=1)
    # Published Euler configs carry the options of the scheduler that they were made of.
    make_scheduler(None, {"_class_name": "EulerDiscreteScheduler", "clip_sample": False, "skip_prk_steps": True})


def test_a_key_that_no_scheduler_has_is_refused_in_its_own_config() -> None:
    with pytest.raises(UserError, match="'sharpness' is not known"):
        make_scheduler(None, {"_class_name": "DDIMScheduler", "sharpness": 2})


def test_pndm_with_runge_kutta_steps_is_refused() -> None:
    """The original's default, so a config without the key means it."""
    with pytest.raises(UserError, match="skip_prk_steps"):
        make_scheduler(None, {"_class_name": "PNDMScheduler"})


def test_consistency_models_keep_their_steps_at_any_strength() -> None:
    scheduler = make_scheduler("lcm", {})
    assert isinstance(scheduler, LCM)
    np.testing.assert_array_equal(scheduler.shortened(0.5).tables(4)["timesteps"][:4], [499, 379, 259, 139])
    with pytest.raises(UserError, match=r"strength = 0\.1 leaves 5"):
        scheduler.shortened(0.1).tables(6)


def test_what_only_the_tables_know_is_not_compiled_in() -> None:
    plain = make_scheduler("euler", {})
    spaced = make_scheduler("euler", {"timestep_spacing": "trailing", "use_karras_sigmas": True, "beta_end": 0.01})
    assert plain != spaced
    assert plain.program == spaced.program
    assert make_scheduler("dpmpp_2m", {}).program == make_scheduler("dpmpp_2m_karras", {}).program
    assert make_scheduler("euler", {"prediction_type": "v_prediction"}).program != plain.program
    assert make_scheduler("ddim", {"clip_sample": False}).program != make_scheduler("ddim", {}).program


def test_unknown_schedulers_list_what_exists() -> None:
    with pytest.raises(UserError, match="'ddim'"):
        make_scheduler("ddmi", {})
    with pytest.raises(UserError, match="HeunDiscreteScheduler is not available; pass scheduler="):
        make_scheduler(None, {"_class_name": "HeunDiscreteScheduler"})
