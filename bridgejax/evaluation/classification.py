"""Accuracy in its shapes: top-1, mean per class, per class, and the confusion matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError


def confusion_matrix(labels: npt.ArrayLike, predictions: npt.ArrayLike, classes: int) -> np.ndarray:
    """Returns int64 [classes, classes]: how often an image of the row's class was taken for the column's.

    Args:
      labels, predictions: int [n], each in [0, classes).

    Raises:
      UserError: the lengths differ or a value is out of range.
    """
    true, guessed = np.asarray(labels), np.asarray(predictions)
    if true.shape != guessed.shape or true.ndim != 1:
        raise UserError(f"labels {list(true.shape)} and predictions {list(guessed.shape)} differ; give one of each per image.")
    for name, values in (("labels", true), ("predictions", guessed)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise UserError(
                f"{name} run from {values.min()} to {values.max()}, but there are {classes} classes from 0; correct them."
            )
    pairs = true.astype(np.int64) * classes + guessed.astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def accuracy(confusion: np.ndarray) -> float:
    """Returns the share of images on the diagonal, in [0, 1]; NaN without images."""
    total = int(confusion.sum())
    return float(np.trace(confusion) / total) if total else float("nan")


def per_class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Returns float64 [classes]: the share of each class's images that are right; NaN for a class without images."""
    counts = confusion.sum(axis=1).astype(np.float64)
    return np.divide(np.diag(confusion), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def mean_per_class_accuracy(confusion: np.ndarray) -> float:
    """Returns the mean of `per_class_accuracy` over the classes that have images, in [0, 1]; NaN without images."""
    each = per_class_accuracy(confusion)
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def classification_metrics(labels: npt.ArrayLike, logits: npt.ArrayLike) -> dict[str, Any]:
    """Returns plain numbers and lists, ready for JSON.

    Args:
      labels: int [n] in [0, classes), n ≥ 1.
      logits: float [n, classes].

    Returns:
      "accuracy", "mean_per_class_accuracy", "per_class_accuracy" (None for a class without images), "confusion" (rows are
      the true classes), "correct" (0 or 1 per image), "loss" (mean cross entropy in nats) and "calibration_error" (see
      `expected_calibration_error`).
    """
    from bridgejax.evaluation.calibration import expected_calibration_error

    scores = np.asarray(logits, np.float64)
    true = np.asarray(labels)
    if scores.ndim != 2 or len(scores) != len(true) or not len(true):
        raise UserError(
            f"labels {list(true.shape)} and logits {list(scores.shape)} do not fit; give [n] and [n, classes], n at least 1."
        )
    predictions = scores.argmax(axis=1)
    confusion = confusion_matrix(true, predictions, scores.shape[1])
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    each = per_class_accuracy(confusion)
    return {
        "accuracy": accuracy(confusion),
        "mean_per_class_accuracy": mean_per_class_accuracy(confusion),
        "per_class_accuracy": [None if np.isnan(value) else float(value) for value in each],
        "confusion": confusion.tolist(),
        "correct": (predictions == true).astype(int).tolist(),
        "loss": float(-log_probabilities[np.arange(len(true)), true].mean()),
        "calibration_error": expected_calibration_error(np.exp(log_probabilities), true),
    }
