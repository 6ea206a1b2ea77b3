"""The samplers' tables and the refusal of what they do not support. Agreement with diffusers is in the parity tests."""

from __future__ import annotations

import numpy as np
import pytest

from bridgejax.diffusion.schedulers import LCM, SCHEDULER_TYPES, SchedulerSettings, make_scheduler
from bridgejax.errors import UserError
from bridgejax.known_names import PREDICTION_TYPES, SCHEDULERS


@pytest.mark.parametrize(
    ("spacing", "offset", "expected"),
    [("leading", 1, [751, 501, 251, 1]), ("trailing", 0, [999, 749, 499, 249]), ("linspace", 0, [999, 666, 333, 0])],
)
def test_timesteps_of_each_spacing(spacing: str, offset: int, expected: list[int]) -> None:
    settings = SchedulerSettings(timestep_spacing=spacing, steps_offset=offset)
    np.testing.assert_array_equal(settings.timesteps(4, "leading"), expected)


def test_zero_terminal_snr() -> None:
    alphas = SchedulerSettings(rescale_betas_zero_snr=True).alphas_cumulative()
    plain = SchedulerSettings().alphas_cumulative()
    assert alphas[-1] == 0
    np.testing.assert_allclose(alphas[0], plain[0])


@pytest.mark.parametrize("name", sorted(SCHEDULER_TYPES))
def test_tables_have_one_length_for_all_steps(name: str) -> None:
    scheduler = make_scheduler(name, {})
    shapes = [{key: np.shape(row) for key, row in scheduler.tables(steps).items()} for steps in (1, 7, scheduler.max_steps)]
    assert all(shape == shapes[0] for shape in shapes)
    assert hash(scheduler) == hash(make_scheduler(name, {}))


ORDERS = [
    *((name, prediction, 1) for name in ("ddim", "euler") for prediction in PREDICTION_TYPES),
    *(("dpmpp_2m", prediction, 2) for prediction in PREDICTION_TYPES),
    ("pndm", "epsilon", 2),
    # As in diffusers: velocities of several calls are combined before the last latents turn them into noise.
    ("pndm", "v_prediction", 1),
]
DEVIATION = 2.0  # of the data, a normal distribution, for which the best prediction and the sampled path are known
ODE = {
    "num_train_timesteps": 1024,
    "timestep_spacing": "trailing",  # then the timesteps of twice as many steps hold those of the half
    "clip_sample": False,
    "skip_prk_steps": True,
}


def _error_at_half_time(name: str, steps: int, prediction: str) -> float:
    """Samples from T down to T / 2 and returns the largest distance from the exact solution.

    Of data N(0, s²), x at alpha α and sigma σ has the variance v = α² s² + σ². The best prediction of its noise is σ x / v, of
    its sample α s² x / v, and the probability-flow ODE (Song et al. 2020, arXiv:2011.13456) carries x along √v.
    """
    config = {**ODE, "prediction_type": prediction}
    scheduler = make_scheduler(name, config)
    tables = scheduler.tables(steps)
    alphas_cumulative = SchedulerSettings.from_config(config).alphas_cumulative()

    def levels(call: int) -> tuple[float, float, float]:
        share = alphas_cumulative[round(float(tables["timesteps"][call]))]
        return np.sqrt(share), np.sqrt(1 - share), share * DEVIATION**2 + 1 - share

    carry = scheduler.start(tables, 0, np.asarray([1.0, -0.7], np.float32), None)
    first = np.asarray(scheduler.model_input(tables, 0, carry))
    last = scheduler.calls(steps) - steps // 2
    for call in range(last):
        x, (alpha, sigma, variance) = np.asarray(scheduler.model_input(tables, call, carry)), levels(call)
        noise, sample = sigma * x / variance, alpha * DEVIATION**2 * x / variance
        output = {"epsilon": noise, "sample": sample, "v_prediction": alpha * noise - sigma * sample}[prediction]
        carry = scheduler.step(tables, call, carry, output.astype(np.float32), None)
    assert tables["timesteps"][last] == 511
    exact = first * np.sqrt(levels(last)[2] / levels(0)[2])
    return float(np.abs(np.asarray(scheduler.model_input(tables, last, carry)) - exact).max())


@pytest.mark.parametrize(("name", "prediction", "order"), ORDERS)
def test_half_the_step_divides_the_error_by_two_to_the_order(name: str, prediction: str, order: int) -> None:
    errors = [_error_at_half_time(name, steps, prediction) for steps in (32, 64, 128)]
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2.0**order, rtol=0.15)


def test_the_names_that_configs_accept_are_those_that_exist() -> None:
    assert tuple(SCHEDULER_TYPES) == SCHEDULERS


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
        ("dpmpp_2m", {"solver_type": "adams"}, "solver_type"),
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
    assert make_scheduler("euler", config).settings == SchedulerSettings(steps_offset=1)
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
    with pytest.raises(UserError, match=r"scheduler 'ddmi' is not available; did you mean 'ddim'"):
        make_scheduler("ddmi", {})
    with pytest.raises(UserError, match="HeunDiscreteScheduler is not available; pass scheduler="):
        make_scheduler(None, {"_class_name": "HeunDiscreteScheduler"})
