"""Evaluation: accuracy, calibration, LEEP and Fréchet distances, in NumPy."""

from __future__ import annotations

from bridgejax.evaluation.calibration import Reliability, expected_calibration_error, reliability
from bridgejax.evaluation.classification import (
    accuracy,
    classification_metrics,
    confusion_matrix,
    mean_per_class_accuracy,
    per_class_accuracy,
)
from bridgejax.evaluation.frechet import frechet_distance
from bridgejax.evaluation.leep import leep

__all__ = [
    "Reliability",
    "accuracy",
    "classification_metrics",
    "confusion_matrix",
    "expected_calibration_error",
    "frechet_distance",
    "leep",
    "mean_per_class_accuracy",
    "per_class_accuracy",
    "reliability",
]
