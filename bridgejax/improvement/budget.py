"""What fits into a length of time: how many images, recipes, steps and seeds."""

from __future__ import annotations

import dataclasses
import math
import re

from bridgejax.errors import UserError

BASELINES = ("vanilla_long_head", "vanilla_long")  # the controls: recipes without generated images
HEAD = "_head"  # ends the name of a recipe in which the head alone trains, on features of which each image has its own
HEAD_STEPS = 160  # of a stage of such a recipe
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_LENGTH = re.compile("".join(rf"(?:(\d+(?:\.\d+)?)\s*{unit}[a-z]*\s*)?" for unit in _UNITS), re.IGNORECASE)
_MARGIN = 1.1  # estimates are a little short: evaluation, files, a busy machine


def seconds_of(budget: str | float) -> float:
    """Returns a length of time in seconds.

    Args:
      budget: a text such as "90s", "5m" or "1h 30m", or seconds as a number.

    Raises:
      UserError: it is neither, or not above zero.
    """
    seconds = 0.0
    if isinstance(budget, str):
        match = _LENGTH.fullmatch(budget.strip())
        numbers = match.groups() if match else ()
        seconds = sum(float(number) * unit for number, unit in zip(numbers, _UNITS.values(), strict=False) if number)
    elif isinstance(budget, (int, float)) and not isinstance(budget, bool):
        seconds = float(budget)
    if not 0 < seconds < math.inf:
        raise UserError(
            f"budget={budget!r} is not a length of time; write '90s', '5m' or '1h30m', or give seconds as a number."
        )
    return seconds


def spoken(seconds: float) -> str:
    """Returns a budget of at least so many seconds, as `seconds_of` reads it: "50s", "3m", "2h"."""
    for unit, size, most in (("s", 10.0, 120.0), ("m", 60.0, 7200.0)):
        if seconds <= most:
            return f"{math.ceil(seconds / size) * size / _UNITS[unit]:.0f}{unit}"
    return f"{math.ceil(seconds / 3600.0)}h"


@dataclasses.dataclass(frozen=True)
class Rates:
    """How fast this machine is, in seconds."""

    image: float  # per generated image, its features included
    photos: float  # for the features of all photographs
    head_step: float  # per optimiser step of a head
    head_run: float  # that a run of a head takes besides its steps
    step: float | None = None  # per optimiser step of all layers; None: too long to be worth measuring
    run: float = 0.0  # that such a run takes besides its steps


@dataclasses.dataclass(frozen=True)
class Design:
    """What is tried."""

    per_class: int  # generated images per class
    base_steps: int  # optimiser steps of a stage in which all layers train; every recipe takes two of them
    arms: tuple[str, ...]  # the recipes among which validation images choose
    learning_rates: tuple[float, ...]  # that each arm tries
    choice_seeds: int  # draws of validation images that each of these is tried with
    seeds: int  # of the study that compares the best recipe with generated images and the best without on the test images

    def seconds(self, rates: Rates, classes: int) -> float:
        """Returns about how long it takes."""
        head = 2 * HEAD_STEPS * rates.head_step + rates.head_run
        whole = math.inf if rates.step is None else 2 * self.base_steps * rates.step + rates.run
        costs = [head if arm.endswith(HEAD) else whole for arm in self.arms]
        runs = len(self.learning_rates) * self.choice_seeds * sum(costs) + 2 * self.seeds * max(costs)
        return _MARGIN * (self.per_class * classes * rates.image + rates.photos + runs)

    @property
    def heads_alone(self) -> bool:
        """Whether no recipe trains more than the head."""
        return all(arm.endswith(HEAD) for arm in self.arms)

    @property
    def words(self) -> str:
        """What it is, in words."""
        layers = "" if self.heads_alone else f" or {2 * self.base_steps} of all layers"
        return f"{self.per_class} images per class, {len(self.arms)} recipes of {2 * HEAD_STEPS} steps of the head{layers}"


_FEW = (BASELINES[0], "mixed_50_head", "bridged_head")
_LAYERS = (*_FEW, BASELINES[1], "mixed_50", "bridged")
_ALL = (*_LAYERS, "mixed", "bridged_plus_plus", "synthetic_only")
_RATES = (0.001, 0.003, 0.01)
DESIGNS = (
    Design(256, 200, _ALL, _RATES, choice_seeds=3, seeds=5),
    Design(128, 80, _LAYERS, _RATES, choice_seeds=3, seeds=5),
    Design(64, 40, _LAYERS, _RATES[1:2], choice_seeds=2, seeds=3),
    Design(128, 40, _FEW, _RATES, choice_seeds=5, seeds=10),
    Design(64, 40, _FEW, _RATES, choice_seeds=3, seeds=5),
    Design(32, 40, _FEW, _RATES[1:2], choice_seeds=3, seeds=3),
    Design(16, 40, _FEW[:2], _RATES[1:2], choice_seeds=1, seeds=1),
)


def fitting_design(rates: Rates, classes: int, seconds: float) -> Design | None:
    """Returns the richest of `DESIGNS` that takes at most so many seconds, None if none does."""
    return next((design for design in DESIGNS if design.seconds(rates, classes) <= seconds), None)
