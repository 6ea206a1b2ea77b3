"""The samplers besides DDIM, each with the arithmetic of its diffusers class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bridgejax.diffusion.scheduler_base import Carry, Scheduler, Tables
from bridgejax.errors import UserError


def _sigmas(alphas: np.ndarray) -> np.ndarray:
    """Returns noise levels sqrt((1 − ᾱ)/ᾱ), float32; an ᾱ of zero is lifted so that they stay finite, as in diffusers."""
    lifted = np.where(alphas <= 0, 2.0**-24, alphas)
    return np.sqrt((1 - lifted) / lifted).astype(np.float32)


def _karras(sigmas: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` noise levels from the last entry to the first (Karras et al. 2022, equation 5, ρ = 7)."""
    ramp = np.linspace(0, 1, count)
    low, high = float(sigmas[0]) ** (1 / 7), float(sigmas[-1]) ** (1 / 7)
    return (high + ramp * (low - high)) ** 7


def _timesteps_of(levels: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Returns the fractional training timesteps of noise levels, linear in log σ.

    The search is that of diffusers: with zero terminal SNR the lifted last level is below its neighbours, and the
    answer depends on which of them is taken.
    """
    logs, wanted = np.log(sigmas), np.log(np.maximum(levels, 1e-10))
    low = np.cumsum(wanted >= logs[:, None], axis=0).argmax(axis=0).clip(max=len(logs) - 2)
    share = np.clip((logs[low] - wanted) / (logs[low] - logs[low + 1]), 0, 1)
    return (1 - share) * low + share * (low + 1)


@dataclasses.dataclass(frozen=True)
class Euler(Scheduler):
    """Euler's method on the probability-flow ODE in σ (Karras et al. 2022, algorithm 2 without churn)."""

    name: ClassVar[str] = "euler"
    default_spacing: ClassVar[str] = "linspace"
    reads: ClassVar[tuple[str, ...]] = (
        *("rescale_betas_zero_snr", "interpolation_type", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
        *("sigma_min", "sigma_max", "timestep_type", "final_sigmas_type"),
    )

    def rows(self, steps: int) -> Tables:
        settings = self.settings
        spacing = settings.timestep_spacing or self.default_spacing
        timesteps = settings.timesteps(steps, self.default_spacing)
        if spacing == "linspace":  # not rounded here
            timesteps = np.linspace(0, settings.num_train_timesteps - 1, steps)[::-1]
        table = _sigmas(settings.alphas_cumulative())
        sigmas = np.interp(timesteps, np.arange(len(table)), table)
        if settings.interpolation_type == "log_linear":  # one level more than steps: the last step ends above zero
            sigmas = np.exp(np.linspace(np.log(table[-1]), np.log(table[0]), steps + 1))
        if settings.use_karras_sigmas:
            # The original bounds the levels by those of the spaced timesteps.
            low = sigmas[-1] if settings.sigma_min is None else settings.sigma_min
            high = sigmas[0] if settings.sigma_max is None else settings.sigma_max
            sigmas = _karras(np.asarray([low, high]), steps)
            timesteps = _timesteps_of(sigmas, table)
        levels = np.append(sigmas, table[0] if settings.final_sigmas_type == "sigma_min" else 0.0)
        sigmas, after = levels[:steps], levels[1 : steps + 1]
        up = np.sqrt(after**2 * (sigmas**2 - after**2) / sigmas**2) if self.stochastic else np.zeros(steps)
        first = sigmas.max() if spacing != "leading" else np.sqrt(sigmas.max() ** 2 + 1)
        return {
            "timesteps": timesteps,
            "sigma": sigmas,
            "down": np.sqrt(after**2 - up**2),
            "up": up,
            "initial": np.asarray(first),
        }

    def start(self, tables: Tables, first: jax.Array, noise: jax.Array, init: jax.Array | None) -> Carry:
        if init is None:
            return {"latents": noise * tables["initial"]}
        return {"latents": init + tables["sigma"][first] * noise}

    def model_input(self, tables: Tables, index: jax.Array, carry: Carry) -> jax.Array:
        return carry["latents"] / jnp.sqrt(tables["sigma"][index] ** 2 + 1)

    def step(self, tables: Tables, index: jax.Array, carry: Carry, output: jax.Array, noise: jax.Array | None) -> Carry:
        latents, sigma = carry["latents"], tables["sigma"][index]
        kind = self.settings.prediction_type
        if kind == "epsilon":
            slope = output
        elif kind == "sample":
            slope = (latents - output) / sigma
        else:
            sample = latents / (sigma**2 + 1) - output * sigma / jnp.sqrt(sigma**2 + 1)
            slope = (latents - sample) / sigma
        latents = latents + slope * (tables["down"][index] - sigma)
        return {"latents": latents if noise is None else latents + noise * tables["up"][index]}


@dataclasses.dataclass(frozen=True)
class EulerAncestral(Euler):
    """Euler's method with fresh noise after each step (k-diffusion's ancestral sampler)."""

    name: ClassVar[str] = "euler_ancestral"
    stochastic: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("rescale_betas_zero_snr",)


@dataclasses.dataclass(frozen=True)
class DPMSolver(Scheduler):
    """DPM-Solver++ of second order, multistep, midpoint (Lu et al. 2022, arXiv:2211.01095, algorithm 2)."""

    name: ClassVar[str] = "dpmpp_2m"
    default_spacing: ClassVar[str] = "linspace"
    karras: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = (
        *("solver_order", "thresholding", "algorithm_type", "solver_type", "lower_order_final", "euler_at_final"),
        *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"),
        *("use_dynamic_shifting", "final_sigmas_type", "lambda_min_clipped", "variance_type", "rescale_betas_zero_snr"),
    )

    @property
    def program(self) -> Scheduler:
        return DPMSolver(super().program.settings)

    def rows(self, steps: int) -> Tables:
        settings = self.settings
        spacing = settings.timestep_spacing or self.default_spacing
        table = _sigmas(settings.alphas_cumulative())
        if self.karras or settings.use_karras_sigmas:
            sigmas = _karras(table, steps)
            timesteps = _timesteps_of(sigmas, table)
            timesteps = timesteps if settings.beta_schedule == "squaredcos_cap_v2" else timesteps.round()
        else:
            # Levels of λ = −log σ below the bound are left out at the noisy end.
            count = len(table) - int(np.searchsorted(-np.log(table[::-1]), settings.lambda_min_clipped))
            if spacing == "linspace":
                timesteps = np.linspace(0, count - 1, steps + 1).round()[::-1][:-1]
            elif spacing == "leading":
                timesteps = (np.arange(steps + 1) * (count // (steps + 1)))[::-1][:-1] + settings.steps_offset
            else:
                timesteps = np.round(np.arange(count, 0, -settings.num_train_timesteps / steps)) - 1
                if len(timesteps) < steps:
                    raise UserError(
                        f"lambda_min_clipped = {settings.lambda_min_clipped} with trailing timesteps leaves "
                        f"{len(timesteps)} of {steps} steps; pass another scheduler=."
                    )
                timesteps = timesteps[:steps]
            sigmas = np.interp(timesteps, np.arange(len(table)), table)
        alpha = 1 / np.sqrt(sigmas**2 + 1)
        to_zero = settings.final_sigmas_type == "zero"
        after = np.append(sigmas[1:], 0.0 if to_zero else table[0])
        after_alpha = 1 / np.sqrt(after**2 + 1)
        # λ = log(α/σ) = −log σ here; a step to σ = 0 is of first order.
        with np.errstate(divide="ignore", invalid="ignore"):
            width = np.log(sigmas) - np.log(after)
            gain = after_alpha * (1 - after / sigmas)
            weight = 0.5 * gain if settings.solver_type == "midpoint" else after_alpha - gain / width
            second = weight * width / np.append(np.inf, width[:-1])
        if to_zero or settings.euler_at_final or (settings.lower_order_final and steps < 15):
            second[-1] = 0
        if settings.solver_order == 1:
            second[:] = 0
        second = np.nan_to_num(second, posinf=0.0, neginf=0.0)  # at or after a step of no width: of first order
        return {
            "timesteps": timesteps.astype(int),
            "alpha": alpha,
            "sigma": sigmas * alpha,
            "keep": (after * after_alpha) / (sigmas * alpha),
            "gain": gain,
            "second": second,
        }

    def start(self, tables: Tables, first: jax.Array, noise: jax.Array, init: jax.Array | None) -> Carry:
        latents = super().start(tables, first, noise, init)["latents"]
        return {"latents": latents, "before": jnp.zeros_like(latents), "count": jnp.int32(0)}

    def step(self, tables: Tables, index: jax.Array, carry: Carry, output: jax.Array, noise: jax.Array | None) -> Carry:
        latents = carry["latents"]
        sample, _ = self.split(tables, index, latents, output)
        second = jnp.where(carry["count"] > 0, tables["second"][index], 0.0)
        latents = tables["keep"][index] * latents + tables["gain"][index] * sample + second * (sample - carry["before"])
        return {"latents": latents, "before": sample, "count": carry["count"] + 1}


@dataclasses.dataclass(frozen=True)
class DPMSolverKarras(DPMSolver):
    """The same on the noise levels of Karras et al. 2022."""

    name: ClassVar[str] = "dpmpp_2m_karras"
    same_class_as: ClassVar[str | None] = "dpmpp_2m"
    karras: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class PNDM(Scheduler):
    """Pseudo linear multistep of order four without Runge-Kutta steps (Liu et al. 2022, arXiv:2202.09778)."""

    name: ClassVar[str] = "pndm"
    reads: ClassVar[tuple[str, ...]] = ("skip_prk_steps", "set_alpha_to_one")
    # How the newest and the three remembered predictions are weighed at the first, second, … call.
    weights: ClassVar[np.ndarray] = np.asarray(
        [
            [1, 0, 0, 0],
            [1 / 2, 1 / 2, 0, 0],
            [3 / 2, -1 / 2, 0, 0],
            [23 / 12, -16 / 12, 5 / 12, 0],
            [55 / 24, -59 / 24, 37 / 24, -9 / 24],
        ],
        np.float32,
    )

    def calls(self, steps: int) -> int:
        return steps + 1 if steps > 1 else steps

    def rows(self, steps: int) -> Tables:
        settings = self.settings
        if settings.prediction_type == "sample":
            raise UserError("scheduler 'pndm' does not support prediction_type = 'sample'; take another scheduler.")
        alphas = settings.alphas_cumulative()
        plain = settings.timesteps(steps, self.default_spacing)
        timesteps = np.concatenate([plain[:2], plain[1:2], plain[2:]]) if steps > 1 else plain
        ratio = settings.num_train_timesteps // steps
        final = 1.0 if settings.set_alpha_to_one else alphas[0]
        tables: Tables = {"timesteps": timesteps}
        # The second call of a run repeats the first step with a better slope: it goes from t + ratio to t.
        for prefix, now, after in (("", timesteps, timesteps - ratio), ("again_", timesteps + ratio, timesteps)):
            here = alphas[np.clip(now.astype(int), 0, len(alphas) - 1)]
            there = np.where(after >= 0, alphas[np.clip(after.astype(int), 0, len(alphas) - 1)], final)
            tables[f"{prefix}alpha"] = np.sqrt(here)
            tables[f"{prefix}sigma"] = np.sqrt(1 - here)
            tables[f"{prefix}keep"] = np.sqrt(there / here)
            tables[f"{prefix}gain"] = (there - here) / (here * np.sqrt(1 - there) + np.sqrt(here * (1 - here) * there))
        return tables

    def start(self, tables: Tables, first: jax.Array, noise: jax.Array, init: jax.Array | None) -> Carry:
        latents = super().start(tables, first, noise, init)["latents"]
        history = jnp.zeros((3, *jnp.shape(latents)), jnp.float32)
        return {"latents": latents, "origin": latents, "history": history, "count": jnp.int32(0)}

    def step(self, tables: Tables, index: jax.Array, carry: Carry, output: jax.Array, noise: jax.Array | None) -> Carry:
        count, history = carry["count"], carry["history"]
        again = count == 1
        latents = jnp.where(again, carry["origin"], carry["latents"])
        row = {
            key: jnp.where(again, tables[f"again_{key}"][index], tables[key][index])
            for key in ("alpha", "sigma", "keep", "gain")
        }
        weights = jnp.asarray(self.weights)[jnp.minimum(count, 4)]
        newest = jnp.concatenate([jnp.asarray(output)[None], history])
        slope = jnp.tensordot(weights, newest, axes=1)
        if self.settings.prediction_type == "v_prediction":
            slope = row["alpha"] * slope + row["sigma"] * latents
        return {
            "latents": row["keep"] * latents - row["gain"] * slope,
            "origin": carry["origin"],
            "history": jnp.where(again, history, newest[:3]),
            "count": count + 1,
        }


@dataclasses.dataclass(frozen=True)
class LCM(Scheduler):
    """Multistep consistency sampling (Luo et al. 2023, arXiv:2310.04378, algorithm 3)."""

    name: ClassVar[str] = "lcm"
    stochastic: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = (
        *("original_inference_steps", "clip_sample", "clip_sample_range", "set_alpha_to_one", "thresholding"),
        *("timestep_scaling", "rescale_betas_zero_snr"),
    )
    defaults: ClassVar[Mapping[str, object]] = MappingProxyType(
        {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    )
    compiled: ClassVar[tuple[str, ...]] = ("prediction_type", "clip_sample", "clip_sample_range")
    strength: float = 1.0  # which share of the schedule of the distillation is used, from the clean end

    @property
    def max_steps(self) -> int:
        return self.settings.original_inference_steps

    def shortened(self, strength: float) -> LCM:
        """Returns the method for image-to-image of a consistency model: all steps lie in the last `strength` of time."""
        return dataclasses.replace(self, strength=strength)

    def rows(self, steps: int) -> Tables:
        settings = self.settings
        origin = settings.original_inference_steps
        if origin > settings.num_train_timesteps:
            raise UserError(
                f"original_inference_steps = {origin} of the scheduler is more than its {settings.num_train_timesteps} "
                "training timesteps; correct scheduler_config.json."
            )
        length = int(origin * self.strength)
        if length < steps:
            raise UserError(
                f"strength = {self.strength} leaves {length} of the {origin} timesteps of the distillation, fewer than "
                f"steps = {steps}; take at most {length} steps or raise strength."
            )
        trained = (np.arange(1, length + 1) * (settings.num_train_timesteps // origin) - 1)[::-1]
        timesteps = trained[np.floor(np.linspace(0, length, steps, endpoint=False)).astype(int)]
        alphas = settings.alphas_cumulative()
        scaled = timesteps * settings.timestep_scaling
        next_alphas = np.append(alphas[timesteps[1:]], 1.0)  # no noise after the last step
        return {
            "timesteps": timesteps,
            "alpha": np.sqrt(alphas[timesteps]),
            "sigma": np.sqrt(1 - alphas[timesteps]),
            "next_alpha": np.sqrt(next_alphas),
            "next_sigma": np.sqrt(1 - next_alphas),
            "skip": 0.25 / (scaled**2 + 0.25),
            "out": scaled / np.sqrt(scaled**2 + 0.25),
        }

    def step(self, tables: Tables, index: jax.Array, carry: Carry, output: jax.Array, noise: jax.Array | None) -> Carry:
        latents = carry["latents"]
        sample, _ = self.split(tables, index, latents, output)
        if self.settings.clip_sample:
            sample = jnp.clip(sample, -self.settings.clip_sample_range, self.settings.clip_sample_range)
        clean = tables["out"][index] * sample + tables["skip"][index] * latents
        fresh = 0.0 if noise is None else tables["next_sigma"][index] * noise
        return {"latents": tables["next_alpha"][index] * clean + fresh}
