"""Accuracy in its shapes: top-1, mean per class, per class, and the confusion matrix."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError, whole_number
from bridgejax.evaluation.inputs import Floats, Integers, real_numbers, whole_numbers


class ClassificationMetrics(TypedDict):
    """What `classification_metrics` returns: plain numbers and lists, ready for JSON."""

    accuracy: float
    mean_per_class_accuracy: float
    per_class_accuracy: list[float | None]  # None for a class without images
    confusion: list[list[int]]  # rows are the true classes
    correct: list[int]  # 0 or 1 per image
    loss: float  # mean cross entropy in nats
    calibration_error: float  # see `expected_calibration_error`


def confusion_matrix(labels: npt.ArrayLike, predictions: npt.ArrayLike, classes: int) -> Integers:
    """Returns int64 [classes, classes]: how often an image of the row's class was taken for the column's; labels are int [n].

    Raises:
      UserError: the lengths differ, or a value is not a whole number or is out of range.
    """
    classes = whole_number("classes", classes, 0)
    true, guessed = whole_numbers("labels", labels, classes), whole_numbers("predictions", predictions, classes)
    if true.shape != guessed.shape or true.ndim != 1:
        raise UserError(f"labels {list(true.shape)} and predictions {list(guessed.shape)} differ; give one of each per image.")
    return np.bincount(true * classes + guessed, minlength=classes * classes).reshape(classes, classes)


def accuracy(confusion: npt.ArrayLike) -> float:
    """Returns the share of images on the diagonal of a confusion matrix, in [0, 1]; NaN without images.

    Raises:
      UserError: it is not a [classes, classes] table of numbers.
    """
    table = _square(confusion)
    total = table.sum()
    return float(np.trace(table) / total) if total else float("nan")


def per_class_accuracy(confusion: npt.ArrayLike) -> Floats:
    """Returns float64 [classes]: the share of each class's images that are right; NaN for a class without images.

    Raises:
      UserError: it is not a [classes, classes] table of numbers.
    """
    table = _square(confusion)
    counts = table.sum(axis=1)
    return np.divide(np.diag(table), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def _square(confusion: npt.ArrayLike) -> Floats:
    table = real_numbers("confusion", confusion)
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise UserError(f"confusion {list(table.shape)} is not square; give the [classes, classes] table of confusion_matrix.")
    return table


def mean_per_class_accuracy(confusion: npt.ArrayLike) -> float:
    """Returns the mean of `per_class_accuracy` over the classes that have images, in [0, 1]; NaN without images.

    Raises:
      UserError: it is not a [classes, classes] table of numbers.
    """
    each = per_class_accuracy(confusion)
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def classification_metrics(labels: npt.ArrayLike, logits: npt.ArrayLike) -> ClassificationMetrics:
    """Returns accuracy, loss and calibration of a classifier's logits.

    Args:
      labels: int [n] in [0, classes), n ≥ 1.
      logits: float [n, classes]; -inf is a probability of 0.

    Raises:
      UserError: shapes that do not fit, labels that are not whole or out of range, or logits without a softmax.
    """
    from bridgejax.evaluation.calibration import expected_calibration_error

    scores, true = real_numbers("logits", logits, finite=False), whole_numbers("labels", labels)
    if scores.ndim != 2 or true.ndim != 1 or len(scores) != len(true) or not scores.size:
        raise UserError(
            f"labels {list(true.shape)} and logits {list(scores.shape)} do not fit; give [n] and [n, classes], n at least 1."
        )
    top = scores.max(axis=1, keepdims=True)
    if not np.isfinite(top).all():
        raise UserError(
            "logits have no softmax: a row holds NaN, inf or only -inf; give finite logits (has training diverged?)."
        )
    predictions = scores.argmax(axis=1)
    confusion = confusion_matrix(true, predictions, scores.shape[1])
    shifted = scores - top
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
