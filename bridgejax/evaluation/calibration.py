"""Whether confidence means what it says."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError, whole_number
from bridgejax.evaluation.inputs import Floats, Integers, real_numbers, whole_numbers


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Predictions grouped by confidence, in bins of equal width over [0, 1].

    Attributes:
      edges: float64 [bins + 1]; bin b holds confidences in (edges[b], edges[b + 1]], the first one also 0.
      counts: int64 [bins].
      confidence, accuracy: float64 [bins], the means in each bin; NaN where it is empty.
      error: the expected calibration error, Σ_b counts_b / n · |accuracy_b - confidence_b|, in [0, 1].
    """

    edges: Floats
    counts: Integers
    confidence: Floats
    accuracy: Floats
    error: float


def reliability(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> Reliability:
    """Returns the reliability diagram of Guo et al. 2017 (arXiv 1706.04599), top-1 confidence.

    Args:
      probabilities: float [n, classes], rows that sum to 1, n ≥ 1.
      labels: int [n] in [0, classes).
      bins: how many, at least 1.

    Raises:
      UserError: shapes that do not fit, values that are not probabilities, labels out of range, or a wrong number of bins.
    """
    bins = whole_number("bins", bins, 1)
    rows, true = check_probabilities(probabilities, labels)
    whole_numbers("labels", true, rows.shape[1])
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


def check_probabilities(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Integers]:
    """Returns the probabilities as float64 [n, z] and the labels as int64 [n].

    Rows sum to 1 as nearly as their type allows. A softmax in a type of spacing eps rounds twice, the sum and the quotients,
    by at most eps / 2 each: rows miss 1 by at most eps. Twice that is let through (1 / 64 in bfloat16), and 1e-3 in any type.

    Raises:
      UserError: shapes that do not fit, rows that are not distributions, or labels that are not whole numbers from 0.
    """
    rows, true = real_numbers("probabilities", probabilities), whole_numbers("labels", labels)
    if rows.ndim != 2 or true.ndim != 1 or len(rows) != len(true) or not rows.size:
        raise UserError(
            f"probabilities {list(rows.shape)} and labels {list(true.shape)} do not fit; give [n, z] and [n], n at least 1."
        )
    off = max(1e-3, 2.0 * float(np.spacing(np.ones((), np.asarray(probabilities).dtype))))
    if rows.min() < 0 or np.abs(rows.sum(axis=1) - 1.0).max() > off:
        raise UserError(
            f"probabilities must be at least 0 and sum to 1 (within {off:.2g}) in every row; give softmax outputs, not logits."
        )
    return rows, true
