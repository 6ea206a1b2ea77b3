"""What a run records while it goes on, and what it leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bridgejax.training.state import TrainState

HistoryEntry = dict[str, float]
RunMetrics = dict[str, Any]  # plain numbers and lists, ready for JSON

# Entries of losses in a history, at most about twice as many.
HISTORY_POINTS = 50


@dataclasses.dataclass
class RunResult:
    """What a run leaves.

    Attributes:
      state: the final state; `state.model` is the trained classifier.
      history: {"stage", "step", "loss", "learning_rate"} (means over the steps since the entry before) and, where the test
        split was evaluated, {"stage", "step", "test_accuracy", "test_mean_per_class_accuracy"}; the validation checks of an
        early stop are {"stage", "step", "validation_mean_per_class_accuracy"}. Steps count from 1 over all stages; where a
        stage ended early, the next goes on counting from its planned end. The test split decides nothing.
      metrics: "test_accuracy", "test_mean_per_class_accuracy", "test_loss", "test_calibration_error",
        "per_class_accuracy", "confusion", "correct" (0 or 1 per test image), "train_steps" (done in
        all), "stage_steps" (done in each stage; of them those after the best validation check of an early stop were undone),
        and "seconds": {"train", "evaluate", "input_stall"}, of which the last is the part of "train" in which the loop waited
        for batches, and "encode" where a stage trained on features.
    """

    state: TrainState
    history: list[HistoryEntry]
    metrics: RunMetrics


@dataclasses.dataclass
class RunRecord:
    """What a run has done so far."""

    step: int = 0  # steps up to here, over all stages, as planned: a stage that stopped early counts whole
    # Optimiser steps really done in each stage that was entered.
    stage_steps: list[int] = dataclasses.field(default_factory=list)
    history: list[HistoryEntry] = dataclasses.field(default_factory=list)  # as in `RunResult`
    losses: list[float] = dataclasses.field(default_factory=list)  # of the steps since the history's last entry of losses
    # As in `RunResult.metrics`.
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: {"train": 0.0, "evaluate": 0.0, "input_stall": 0.0})
    metrics: RunMetrics | None = None  # of the last evaluation on the test split

    def add_loss(self, stage: int, step: int, loss: float, learning_rate: float, *, closes: bool) -> None:
        """Adds the loss of a step; one that `closes` makes an entry of the mean since the entry before."""
        self.losses.append(loss)
        if closes:
            mean = float(np.mean(self.losses))
            self.history.append({"stage": stage, "step": step, "loss": mean, "learning_rate": learning_rate})
            self.losses = []

    def add_test_metrics(self, stage: int, metrics: Mapping[str, object]) -> None:
        """Takes in the metrics of an evaluation on the test split."""
        renamed = {"accuracy", "mean_per_class_accuracy", "loss", "calibration_error"}
        self.metrics = {f"test_{key}" if key in renamed else key: value for key, value in metrics.items()}
        shown = {key: self.metrics[key] for key in ("test_accuracy", "test_mean_per_class_accuracy")}
        self.history.append({"stage": stage, "step": self.step, **shown})

    def result(self, state: TrainState) -> RunResult:
        """Returns what a finished run leaves."""
        if self.metrics is None:
            raise RuntimeError("a run ended without its final evaluation")
        steps = {"train_steps": sum(self.stage_steps), "stage_steps": list(self.stage_steps)}
        return RunResult(state, self.history, {**self.metrics, **steps, "seconds": dict(self.seconds)})
