"""Evaluation: accuracy and gain per class, calibration, LEEP, and how near generated images are to real ones.

Plain functions of NumPy arrays. What compares all pairs of images (`kernel_distance`, `precision_recall`, `nearest_real`) runs
block by block on JAX's default device, and `image_features` runs the backbone; JAX is imported with these alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bridgejax.evaluation.calibration import Reliability, expected_calibration_error, reliability
from bridgejax.evaluation.classification import (
    ClassificationMetrics,
    accuracy,
    classification_metrics,
    confusion_matrix,
    mean_per_class_accuracy,
    per_class_accuracy,
)
from bridgejax.evaluation.detection import BoxSet, average_precisions
from bridgejax.evaluation.frechet import FrechetInterval, frechet_distance, frechet_interval
from bridgejax.evaluation.gain import PerClassGain, per_class_gain
from bridgejax.evaluation.leep import leep
from bridgejax.evaluation.leep_matched import leep_matched

if TYPE_CHECKING:
    from bridgejax.evaluation.copies import NearestReal, nearest_real
    from bridgejax.evaluation.features import image_features, image_logits
    from bridgejax.evaluation.kernel import KernelDistance, kernel_distance, kernel_distance_subsets
    from bridgejax.evaluation.manifolds import PrecisionRecall, precision_recall

# No module here may have the name of what it defines: importing it would put the module in that name's place.
_HOMES = {
    "KernelDistance": "kernel",
    "NearestReal": "copies",
    "PrecisionRecall": "manifolds",
    "image_features": "features",
    "image_logits": "features",
    "kernel_distance": "kernel",
    "kernel_distance_subsets": "kernel",
    "nearest_real": "copies",
    "precision_recall": "manifolds",
}

__all__ = [
    "BoxSet",
    "ClassificationMetrics",
    "FrechetInterval",
    "KernelDistance",
    "NearestReal",
    "PerClassGain",
    "PrecisionRecall",
    "Reliability",
    "accuracy",
    "average_precisions",
    "classification_metrics",
    "confusion_matrix",
    "expected_calibration_error",
    "frechet_distance",
    "frechet_interval",
    "image_features",
    "image_logits",
    "kernel_distance",
    "kernel_distance_subsets",
    "leep",
    "leep_matched",
    "mean_per_class_accuracy",
    "nearest_real",
    "per_class_accuracy",
    "per_class_gain",
    "precision_recall",
    "reliability",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
