"""Samplers of diffusion models: tables computed once in NumPy, and a pure step on them.

A scheduler is a frozen (hashable) object. `tables(steps)` gives arrays whose rows are padded to one static
length, so that another number of steps is another argument, not another program. `start`, `model_input` and
`step` are pure functions of the tables, the index of the call and a carry; they run inside one jitted loop.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import jax
import numpy as np

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.known_names import PREDICTION_TYPES

Tables = dict[str, np.ndarray]  # float32 [rows] or scalar; inside a program, tracers of such
Carry = dict[str, jax.Array]  # "latents" [n, h, w, c] and whatever the method remembers

SPACINGS = ("leading", "trailing", "linspace")
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
# The values of each option that are available; an option is looked at only if the method's original reads it.
CHOICES: dict[str, tuple[object, ...]] = {
    "prediction_type": PREDICTION_TYPES,
    "timestep_spacing": (None, *SPACINGS),
    "beta_schedule": BETAS,
    **dict.fromkeys(("thresholding", "use_exponential_sigmas", "use_beta_sigmas"), (False,)),
    **dict.fromkeys(("use_lu_lambdas", "use_flow_sigmas", "use_dynamic_shifting"), (False,)),
    "skip_prk_steps": (True,),
    "algorithm_type": ("dpmsolver++",),
    "solver_order": (1, 2),
    "solver_type": ("midpoint", "heun"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "interpolation_type": ("linear", "log_linear"),
    "timestep_type": ("discrete",),
    # Others say how a DDPM draws noise, which no sampler here does; the learned ones are for models with two outputs.
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}
# Values of other classes' options for which the original takes one of its own.
TAKEN_AS: dict[str, dict[object, object]] = {
    "solver_type": dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"),
    "algorithm_type": {"deis": "dpmsolver++"},
}
# Classes of diffusers whose noise levels come from betas, also where their file leaves them out. Other classes' files must
# hold some: a model that samples without betas was trained on other noise.
OF_BETAS = re.compile(
    r"(DDIM|DDIMInverse|DDIMParallel|DDPM|DDPMParallel|DEISMultistep|DPMSolverMultistep|DPMSolverMultistepInverse|DPMSolverSDE|"
    r"DPMSolverSinglestep|EulerAncestralDiscrete|EulerDiscrete|HeunDiscrete|KDPM2AncestralDiscrete|KDPM2Discrete|LCM|LMSDiscrete|"
    r"PNDM|RePaint|SASolver|TCD|UniPCMultistep|UnCLIP)Scheduler"
)
_BETA_KEYS = ("beta_start", "beta_end", "beta_schedule", "trained_betas")
# What every original reads, and what only goes with an option that is refused or has no effect on sampling.
COMMON = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    *("prediction_type", "timestep_spacing", "steps_offset"),
)
PASSED_OVER = ("dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "time_shift_type")
# Options of other schedulers that published configs carry along, for files say what their writer's class once had.
ELSEWHERE = (
    *("clip_sample", "clip_sample_range", "set_alpha_to_one", "skip_prk_steps", "variance_type", "thresholding"),
    *("rescale_betas_zero_snr", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "final_sigmas_type"),
    *("sigma_min", "sigma_max", "interpolation_type", "timestep_type", "original_inference_steps", "timestep_scaling"),
    *("algorithm_type", "solver_order", "solver_type", "lower_order_final", "euler_at_final", "lambda_min_clipped"),
    *("use_lu_lambdas", "use_flow_sigmas", "use_dynamic_shifting", "predict_epsilon", "denoise_final", "predict_x0"),
    *("solver_p", "disable_corrector", "eta", "s_noise"),
)


@dataclasses.dataclass(frozen=True)
class SchedulerSettings:
    """The noise schedule of a folder's `scheduler_config.json`; the defaults are those of diffusers."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str | None = None  # None: the method's own default
    steps_offset: int = 0
    set_alpha_to_one: bool | None = None
    clip_sample: bool | None = None
    clip_sample_range: float = 1.0
    rescale_betas_zero_snr: bool = False
    use_karras_sigmas: bool = False
    final_sigmas_type: str = "zero"
    interpolation_type: str = "linear"
    sigma_min: float | None = None
    sigma_max: float | None = None
    solver_order: int = 2
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    lambda_min_clipped: float = -math.inf
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0

    @classmethod
    def from_config(
        cls,
        config: JSONObject,
        where: str = "scheduler_config.json",
        reads: Sequence[str] = (),
        own: bool = False,
        defaults: Mapping[str, object] = MappingProxyType({}),
    ) -> SchedulerSettings:
        """Reads a diffusers scheduler config as a method does whose original reads the options `reads`.

        Options that only other methods have are passed over, as diffusers does when it makes one scheduler of
        another's config.

        Args:
          config: the JSON object.
          where: its file, for error messages.
          reads: the options besides `COMMON` that bear on the method.
          own: whether the config was written for the method; then a key that no scheduler has is refused, and what is filled in
            for the method (`_use_default_values`) counts.
          defaults: of the method's original, where they are not those of most.

        Raises:
          UserError: a value or a key is not supported; it is named.
        """
        known = {field.name: field.type for field in dataclasses.fields(cls)}
        values: JSONObject = dict(defaults)
        unset = () if own else tuple(config.get("_use_default_values") or ())
        for key, value in config.items():
            if key.startswith("_") or key in PASSED_OVER or key in unset:
                continue
            if key not in COMMON and key not in reads:
                if own and key not in ELSEWHERE:
                    raise UserError(
                        f"{where}: the option {key!r} is not known, so images might differ from the original's; remove it."
                    )
                continue
            if isinstance(value, str):
                value = TAKEN_AS.get(key, {}).get(value, value)
            allowed = CHOICES.get(key, (value,))
            fits = any(value == option and type(value) is type(option) for option in allowed)
            fits = fits or (value is None and key not in ("prediction_type", "beta_schedule"))
            if not fits and not (key == "beta_schedule" and config.get("trained_betas") is not None):
                options = ", ".join(json.dumps(option) for option in CHOICES[key] if option is not None) or "null"
                raise UserError(
                    f"{where}: {key} = {json.dumps(value)} is not supported; it must be one of {options}, "
                    "or pass another scheduler=."
                )
            if key in known and value is not None:
                values[key] = _checked(key, value, str(known[key]), where)
        settings = cls(**values)
        if settings.trained_betas is not None and len(settings.trained_betas) != settings.num_train_timesteps:
            raise UserError(
                f"{where}: trained_betas has {len(settings.trained_betas)} values, but num_train_timesteps is "
                f"{settings.num_train_timesteps}; give as many."
            )
        return settings

    def alphas_cumulative(self) -> np.ndarray:
        """Returns ᾱ at every training timestep, float64 [num_train_timesteps] (Ho et al. 2020, equation 4).

        Betas and 1 − β are rounded to float32, as the published samplers have them: under a cosine schedule the
        last of them is 0.001, where that rounding is felt.
        """
        count, single = self.num_train_timesteps, np.float32
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas, single)
        elif self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, count).astype(single)
        elif self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, count).astype(single) ** 2
        else:  # Nichol & Dhariwal 2021, equation 17
            edges = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = np.minimum(1 - edges[1:] / edges[:-1], 0.999).astype(single)
        alphas = np.cumprod((single(1) - betas).astype(np.float64))
        if self.rescale_betas_zero_snr:  # Lin et al. 2023 (arXiv:2305.08891), algorithm 1
            roots = np.sqrt(alphas)
            alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
        return alphas

    def timesteps(self, steps: int, default_spacing: str) -> np.ndarray:
        """Returns the timesteps of `steps` model calls, highest first, as diffusers spaces them; float64 [steps]."""
        spacing = self.timestep_spacing or default_spacing
        count = self.num_train_timesteps
        if spacing == "linspace":
            return np.linspace(0, count - 1, steps).round()[::-1]
        if spacing == "leading":
            return (np.arange(steps) * (count // steps))[::-1] + self.steps_offset
        return np.round(np.arange(count, 0, -count / steps))[:steps] - 1


def check_noise(config: JSONObject, where: str) -> None:
    """Refuses the config of a class whose noise levels are not those of betas; `where` is its file."""
    kind = config.get("_class_name")
    betas = any(config.get(key) is not None for key in _BETA_KEYS) and config.get("snr_shift_scale") is None
    if kind is not None and not betas and not OF_BETAS.fullmatch(str(kind)):
        raise UserError(
            f"{where} was written by {kind}, whose noise levels are not those of betas alone; no scheduler here samples such a "
            "model."
        )


def _checked(key: str, value: object, kind: str, where: str) -> object:
    """Returns an option's value, which JSON may write as another kind of number.

    Args:
      key: the option.
      value: not None.
      kind: the annotation of its field in `SchedulerSettings`.
      where: the file, for the message.

    Raises:
      UserError: it is of another kind, or a number out of range.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    wanted = "a string"
    if kind.startswith("bool"):
        fits, wanted = isinstance(value, bool), "true or false"
    elif kind.startswith("int"):
        fits, wanted = number and value == int(value) >= (0 if key == "steps_offset" else 1), "a whole number"  # type: ignore[call-overload]
        value = int(value) if fits else value  # type: ignore[call-overload]
    elif kind.startswith("float"):
        fits, wanted = number and (key == "lambda_min_clipped" or 0 < value < math.inf), "a positive number"  # type: ignore[operator]
    elif key == "trained_betas":
        fits = isinstance(value, (list, tuple)) and all(isinstance(beta, float) and 0 < beta < 1 for beta in value)
        wanted, value = "a list of numbers between 0 and 1", tuple(value) if fits else value  # type: ignore[arg-type]
    else:
        fits = isinstance(value, str)
    if not fits:
        raise UserError(f"{where}: {key} = {json.dumps(value)[:80]} is not supported; it must be {wanted}.")
    return value


@dataclasses.dataclass(frozen=True)
class Scheduler(abc.ABC):
    """What every method shares; a method overrides `rows`, `start`, `step` and, if it must, the rest."""

    settings: SchedulerSettings
    name: ClassVar[str] = ""
    stochastic: ClassVar[bool] = False
    same_class_as: ClassVar[str | None] = None  # another name for the same class of diffusers
    default_spacing: ClassVar[str] = "leading"
    extra_rows: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()  # options of the original besides COMMON
    defaults: ClassVar[Mapping[str, object]] = MappingProxyType({})  # of the original, where they differ from most
    compiled: ClassVar[tuple[str, ...]] = ("prediction_type",)  # settings that `start`, `model_input` and `step` read

    @property
    def program(self) -> Scheduler:
        """The method with nothing set but what its arithmetic reads: two with the same program share a compilation."""
        return type(self)(SchedulerSettings(**{key: getattr(self.settings, key) for key in self.compiled}))

    @property
    def max_steps(self) -> int:
        """The greatest number of steps."""
        return self.settings.num_train_timesteps

    def calls(self, steps: int) -> int:
        """Returns how often the model is called for `steps` steps."""
        return steps

    def first_call(self, steps: int, strength: float) -> int:
        """Returns the call at which image-to-image of this strength begins, counted as diffusers does."""
        return steps - min(int(steps * strength), steps)

    @abc.abstractmethod
    def rows(self, steps: int) -> Tables:
        """Returns one array per quantity, each with one row per model call, `timesteps` among them."""

    def tables(self, steps: int) -> Tables:
        """Returns the rows as float32, padded with their last value to a length that does not depend on `steps`.

        Raises:
          UserError: the number of steps is not between 1 and the number of training timesteps.
        """
        if int(steps) != steps or not 1 <= steps <= self.max_steps:
            raise UserError(f"steps = {steps!r} must be a whole number from 1 to {self.max_steps}.")
        length = self.max_steps + self.extra_rows
        tables = {}
        for name, values in self.rows(int(steps)).items():
            row = np.asarray(values, np.float32)
            tables[name] = np.pad(row, (0, length - len(row)), mode="edge") if row.ndim else row
        if tables["timesteps"].max() >= self.settings.num_train_timesteps:
            raise UserError(
                f"steps = {steps} with steps_offset = {self.settings.steps_offset} "
                "goes past the last training timestep; take fewer steps."
            )
        return tables

    def start(self, tables: Tables, first: jax.Array, noise: jax.Array, init: jax.Array | None) -> Carry:
        """Returns the carry before call `first`, from unit noise [n, h, w, c] and, for image-to-image, latents."""
        return {"latents": noise if init is None else tables["alpha"][first] * init + tables["sigma"][first] * noise}

    def split(self, tables: Tables, index: jax.Array, latents: jax.Array, output: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (clean sample, noise) from the prediction of call `index`."""
        alpha, sigma = tables["alpha"][index], tables["sigma"][index]
        return split_prediction(self.settings.prediction_type, latents, output, alpha, sigma)

    def model_input(self, tables: Tables, index: jax.Array, carry: Carry) -> jax.Array:
        """Returns what the model sees at call `index`: [n, h, w, c]."""
        return carry["latents"]

    @abc.abstractmethod
    def step(self, tables: Tables, index: jax.Array, carry: Carry, output: jax.Array, noise: jax.Array | None) -> Carry:
        """Returns the carry after call `index`.

        Args:
          tables: from `tables`.
          index: the call, from `first` on.
          carry: from `start` or the previous step.
          output: the model's (guided) prediction, float32 [n, h, w, c].
          noise: unit normal noise of the same shape, for stochastic methods only.
        """


def split_prediction(
    kind: str, latents: jax.Array, output: jax.Array, alpha: jax.Array, sigma: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns (clean sample, noise) from a prediction at latents = alpha · sample + sigma · noise."""
    if kind == "epsilon":
        return (latents - sigma * output) / alpha, output
    if kind == "sample":
        return output, (latents - alpha * output) / sigma
    return alpha * latents - sigma * output, alpha * output + sigma * latents
