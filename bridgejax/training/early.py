"""The early stop of a stage: a watch over the validation images, and the best weights so far."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bridgejax.training.state import TrainState


class EarlyStop:
    """Counts looks without a better score and keeps the arrays of the best look.

    Attributes:
      patience: looks without a better score (strictly) after which the stage ends.
      best: the best score so far, None before the first look.
      best_step: the step of that look, counted over all stages.
      waited: looks since then.
      kept: the best look's {"params", "other"}, copies that later steps do not touch.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best: float | None = None
        self.best_step = 0
        self.waited = 0
        self.kept: dict[str, Any] | None = None

    def look(self, score: float, step: int, state: TrainState) -> bool:
        """Takes a look's score in; returns whether the stage ends now."""
        if self.best is None or score > self.best:
            self.best, self.best_step, self.waited = float(score), step, 0
            self.kept = jax.tree.map(jnp.copy, arrays_of(state))
        else:
            self.waited += 1
        return self.waited >= self.patience

    def settled(self, state: TrainState) -> TrainState:
        """Returns `state` with the best look's weights and statistics; its moments and step stay."""
        return state if self.kept is None else dataclasses.replace(state, **self.kept)

    def notes(self) -> dict[str, Any]:
        """Returns the counters as plain data, for a checkpoint; `kept` is stored beside them."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def resume(self, notes: dict[str, Any], kept: dict[str, Any]) -> None:
        """Goes on from a checkpoint's notes."""
        self.best, self.best_step, self.waited = notes["best"], notes["best_step"], notes["waited"]
        self.kept = kept


def arrays_of(state: TrainState) -> dict[str, Any]:
    """Returns what a look keeps of a state: {"params", "other"}."""
    return {"params": state.params, "other": state.other}
