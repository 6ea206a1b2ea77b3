"""Whether confidence means what it says."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Predictions grouped by confidence, in bins of equal width over [0, 1].

    Attributes:
      edges: float64 [bins + 1]; bin b holds confidences in (edges[b], edges[b + 1]], the first one also 0.
      counts: int64 [bins].
      confidence, accuracy: float64 [bins], the means in each bin; NaN where it is empty.
      error: the expected calibration error, Σ_b counts_b / n · |accuracy_b - confidence_b|, in [0, 1].
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def reliability(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> Reliability:
    """Returns the reliability diagram of Guo et al. 2017 (arXiv 1706.04599), top-1 confidence.

    Args:
      probabilities: float [n, classes], rows that sum to 1, n ≥ 1.
      labels: int [n] in [0, classes).
      bins: how many, at least 1.

    Raises:
      UserError: shapes that do not fit, values that are no probabilities, or labels out of range.
    """
    rows, true = check_probabilities(probabilities, labels)
    if bins < 1:
        raise UserError(f"bins is {bins}; give at least 1.")
    if true.max() >= rows.shape[1]:
        raise UserError(f"labels reach {true.max()}, but there are {rows.shape[1]} classes from 0; correct them.")
    top = rows.max(axis=1)
    right = (rows.argmax(axis=1) == true).astype(np.float64)
    edges = np.linspace(0.0, 1.0, bins + 1)
    # Rounding can lift a probability above 1 by an ulp; it belongs to the last bin.
    place = np.clip(np.searchsorted(edges, top, side="left") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    empty = np.full(bins, np.nan)
    confidence = np.divide(np.bincount(place, top, bins), counts, out=empty.copy(), where=counts > 0)
    accurate = np.divide(np.bincount(place, right, bins), counts, out=empty.copy(), where=counts > 0)
    gaps = np.where(counts > 0, np.abs(accurate - confidence), 0.0)
    return Reliability(edges, counts, confidence, accurate, float((counts / len(true) * gaps).sum()))


def expected_calibration_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> float:
    """Returns `reliability(...).error`, in [0, 1]: 0 when confidence equals accuracy in every bin."""
    return reliability(probabilities, labels, bins).error


def check_probabilities(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probabilities as float64 [n, z] and the labels as int64 [n].

    Raises:
      UserError: shapes that do not fit, rows that are no distributions, or labels that are no whole numbers from 0.
    """
    rows, true = np.asarray(probabilities, np.float64), np.asarray(labels)
    if rows.ndim != 2 or true.ndim != 1 or len(rows) != len(true) or not rows.size:
        raise UserError(
            f"probabilities {list(rows.shape)} and labels {list(true.shape)} do not fit; give [n, z] and [n], n at least 1."
        )
    if not np.issubdtype(true.dtype, np.integer) or true.min() < 0:
        raise UserError("labels must be whole numbers from 0, one per row of probabilities.")
    if not np.isfinite(rows).all() or rows.min() < 0 or np.abs(rows.sum(axis=1) - 1.0).max() > 1e-3:
        raise UserError("probabilities must be at least 0 and sum to 1 in every row; give softmax outputs, not logits.")
    return rows, true.astype(np.int64)
