"""The samplers by name: DDIM here, the others in `solvers`."""

from __future__ import annotations

import dataclasses
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bridgejax.diffusion.scheduler_base import Carry, Scheduler, SchedulerSettings, Tables, check_noise
from bridgejax.diffusion.solvers import LCM, PNDM, DPMSolver, DPMSolverKarras, Euler, EulerAncestral
from bridgejax.errors import UserError, choices
from bridgejax.files import JSONObject
from bridgejax.known_names import SCHEDULERS

__all__ = ["CLASS_NAMES", "SCHEDULER_TYPES", "Carry", "Scheduler", "SchedulerSettings", "Tables", "make_scheduler"]


@dataclasses.dataclass(frozen=True)
class DDIM(Scheduler):
    """Denoising diffusion implicit models without added noise (Song et al. 2021, arXiv:2010.02502, equation 12)."""

    name: ClassVar[str] = "ddim"
    reads: ClassVar[tuple[str, ...]] = (
        *("clip_sample", "clip_sample_range", "set_alpha_to_one", "thresholding", "rescale_betas_zero_snr"),
    )
    compiled: ClassVar[tuple[str, ...]] = ("prediction_type", "clip_sample", "clip_sample_range")

    def rows(self, steps: int) -> Tables:
        settings = self.settings
        alphas = settings.alphas_cumulative()
        timesteps = settings.timesteps(steps, self.default_spacing)
        now = np.clip(timesteps.astype(int), 0, settings.num_train_timesteps - 1)
        before = now - settings.num_train_timesteps // steps
        final = 1.0 if settings.set_alpha_to_one in (None, True) else alphas[0]
        previous = np.where(before >= 0, alphas[np.maximum(before, 0)], final)
        return {
            "timesteps": timesteps,
            "alpha": np.sqrt(alphas[now]),
            "sigma": np.sqrt(1 - alphas[now]),
            "next_alpha": np.sqrt(previous),
            "next_sigma": np.sqrt(1 - previous),
        }

    def step(self, tables: Tables, index: jax.Array, carry: Carry, output: jax.Array, noise: jax.Array | None) -> Carry:
        sample, epsilon = self.split(tables, index, carry["latents"], output)
        if self.settings.clip_sample in (None, True):
            sample = jnp.clip(sample, -self.settings.clip_sample_range, self.settings.clip_sample_range)
        return {"latents": tables["next_alpha"][index] * sample + tables["next_sigma"][index] * epsilon}


SCHEDULER_TYPES: dict[str, type[Scheduler]] = {
    kind.name: kind for kind in (DDIM, PNDM, Euler, EulerAncestral, DPMSolver, DPMSolverKarras, LCM)
}
# The class names of diffusers that a folder may name.
CLASS_NAMES: dict[str, str] = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "LCMScheduler": "lcm",
}


def make_scheduler(name: str | None, config: JSONObject, where: str = "scheduler_config.json") -> Scheduler:
    """Returns the scheduler `name` with the noise schedule of a folder.

    Args:
      name: one of `bridgejax.known_names.SCHEDULERS`; None means the folder's own.
      config: the folder's `scheduler_config.json`.
      where: that file, for error messages.

    Raises:
      UserError: the name, or the folder's scheduler, is not known; the message lists what exists.
    """
    known = ", ".join(repr(option) for option in sorted(SCHEDULERS))
    check_noise(config, where)
    if name is None:
        kind = str(config.get("_class_name"))
        if kind not in CLASS_NAMES:
            raise UserError(f"{where}: the scheduler {kind} is not available; pass scheduler=, one of {known}.")
        name = CLASS_NAMES[kind]
    if name not in SCHEDULERS:
        raise UserError(f"scheduler {name!r} is not available; {choices(name, sorted(SCHEDULERS))}")
    method = SCHEDULER_TYPES[name]
    own = CLASS_NAMES.get(str(config.get("_class_name")), "") in (name, method.same_class_as)
    if own and name == "pndm" and not config.get("skip_prk_steps"):
        raise UserError(
            f"{where}: skip_prk_steps = {json.dumps(config.get('skip_prk_steps', False))} (Runge-Kutta steps first) is not "
            "supported; it must be true, or pass another scheduler=."
        )
    return method(SchedulerSettings.from_config(config, where, method.reads, own, method.defaults))
