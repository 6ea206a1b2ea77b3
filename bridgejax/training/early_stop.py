"""The early stop of a stage: its validation checks, and the best weights so far."""

from __future__ import annotations

import dataclasses
from typing import TypedDict

import jax
import jax.numpy as jnp

from bridgejax.training.state import Arrays, TrainState


class BestArrays(TypedDict):
    """What a validation check stores of a state."""

    params: Arrays
    other: Arrays


class EarlyStopNotes(TypedDict):
    """The counters of an `EarlyStop` as plain data."""

    best: float | None
    best_step: int
    waited: int


class EarlyStop:
    """Counts validation checks without a better score and holds the arrays of the best one.

    Attributes:
      patience: checks without a (strictly) better score after which the stage ends.
      best: the best score so far, None before the first check.
      best_step: the step of that check, counted over all stages.
      waited: checks since then.
      best_arrays: the state's arrays at that check, in copies that later steps do not touch.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best: float | None = None
        self.best_step = 0
        self.waited = 0
        self.best_arrays: BestArrays | None = None

    def check(self, score: float, step: int, state: TrainState) -> bool:
        """Takes in the score of a check; returns whether the stage ends now."""
        if self.best is None or score > self.best:
            self.best, self.best_step, self.waited = float(score), step, 0
            self.best_arrays = jax.tree.map(jnp.copy, arrays_of(state))
        else:
            self.waited += 1
        return self.waited >= self.patience

    def best_state(self, state: TrainState) -> TrainState:
        """Returns `state` with the weights and statistics of the best check; its moments and step stay."""
        return state if self.best_arrays is None else dataclasses.replace(state, **self.best_arrays)

    def notes(self) -> EarlyStopNotes:
        """Returns the counters, for a checkpoint; `best_arrays` is stored beside them."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def resume(self, notes: EarlyStopNotes, best_arrays: BestArrays) -> None:
        """Goes on from a checkpoint's notes."""
        self.best, self.best_step, self.waited = notes["best"], notes["best_step"], notes["waited"]
        self.best_arrays = best_arrays


def arrays_of(state: TrainState) -> BestArrays:
    """Returns what a check stores of a state."""
    return {"params": state.params, "other": state.other}
