"""Precision and recall of generated images: how many look real, and how much of the real variety they cover."""

from __future__ import annotations

import dataclasses

import numpy.typing as npt

from bridgejax.errors import whole_number
from bridgejax.evaluation.inputs import Booleans, check_features
from bridgejax.evaluation.pairs import LARGEST_SQUARED, inside_any_ball, nearest_rows


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
    """Improved precision and recall.

    Attributes:
      precision: share of the synthetic images within the real manifold, in [0, 1].
      recall: share of the real images within the synthetic manifold, in [0, 1].
      realistic: bool [m], which synthetic images are within.
      covered: bool [n], which real images are within.
      k: the neighbour that gives a ball its radius.
    """

    precision: float
    recall: float
    realistic: Booleans
    covered: Booleans
    k: int


def precision_recall(real: npt.ArrayLike, synthetic: npt.ArrayLike, k: int = 3) -> PrecisionRecall:
    """Returns the improved precision and recall of Kynkäänniemi et al. 2019 (arXiv 1904.06991, equations 1 and 2).

    A set's manifold is the union of balls around its images' features, each as large as the distance to that image's k-th
    nearest other image of the set. Both figures depend on how many images there are: compare only sets of one size, with one
    set of real images.

    Args:
      real: float [n, d], n > k.
      synthetic: float [m, d], m > k.
      k: which neighbour, at least 1; the paper takes 3.

    Raises:
      UserError: shapes that do not fit, values that are not finite real numbers or whose squares overflow, a k that is not a
        whole number of at least 1, or too few rows for k.
    """
    k = whole_number("k", k, 1)
    x, y = check_features(k + 1, LARGEST_SQUARED, real=real, synthetic=synthetic)
    radius_real = nearest_rows(x, x, k, same=True)[0][:, -1]
    radius_synthetic = nearest_rows(y, y, k, same=True)[0][:, -1]
    realistic = inside_any_ball(y, x, radius_real)
    covered = inside_any_ball(x, y, radius_synthetic)
    return PrecisionRecall(float(realistic.mean()), float(covered.mean()), realistic, covered, k)
