"""The nearest real image of each synthetic one: has the generator copied?"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError
from bridgejax.evaluation.inputs import Booleans, Floats, Integers, check_features
from bridgejax.evaluation.pairs import LARGEST_SQUARED, nearest_rows


@dataclasses.dataclass(frozen=True)
class NearestReal:
    """Each synthetic image's nearest real one, and how near real images are to each other.

    Attributes:
      index: int64 [m], the position of the nearest real image.
      distance: float64 [m], its distance.
      real_distance: float64 [n], each real image's distance to the nearest other real image.
      threshold: the `quantile` of `real_distance`.
      suspected: bool [m], `distance <= threshold`: as near to a real image as only that share of real images are to each
        other. A hint to look at the pair, not a proof.
    """

    index: Integers
    distance: Floats
    real_distance: Floats
    threshold: float
    suspected: Booleans

    def closest(self, count: int) -> Integers:
        """Returns the positions of the `count` synthetic images that are nearest to a real one, nearest first."""
        return np.argsort(self.distance, kind="stable")[:count]


def nearest_real(
    synthetic: npt.ArrayLike, real: npt.ArrayLike, *, metric: str = "cosine", quantile: float = 0.01
) -> NearestReal:
    """Finds the nearest real image of each synthetic one.

    The threshold is taken from the real images alone, each compared with all others (leave one out), as the data-copying
    tests do that ask whether generated samples lie nearer to the training set than fresh ones would (Meehan et al. 2020,
    arXiv 2004.05675). Near duplicates among the real images lower it. Few real images lie far apart, which raises it: then
    more is suspected.

    Args:
      synthetic: float [m, d]: features of a backbone, or pixels in [0, 1] of images of one size, flattened.
      real: float [n, d], n ≥ 2.
      metric: "cosine": 1 - cos of the angle, in [0, 2], for features. "pixels": the root mean square difference, in the
        pixels' units, for images.
      quantile: of the real images' own nearest distances, in [0, 1].

    Raises:
      UserError: shapes that do not fit, values that are not finite real numbers or whose squares overflow, features of length
        0, or an unknown metric.
    """
    x, y = check_features(1, LARGEST_SQUARED, synthetic=synthetic, real=real)
    if len(y) < 2:
        raise UserError("there is only one real image; give at least 2, so that real images can be compared with each other.")
    if metric not in ("cosine", "pixels"):
        raise UserError(f"metric is {metric!r}; give 'cosine' or 'pixels'.")
    if not 0 <= quantile <= 1:
        raise UserError(f"quantile is {quantile}; give a number from 0 to 1.")
    if metric == "cosine":
        x, y = unit_rows(x), unit_rows(y)
    between, index = nearest_rows(x, y, 1)
    among, _ = nearest_rows(y, y, 1, same=True)
    distance, own = between[:, 0], among[:, 0]
    if metric == "cosine":
        distance, own = distance**2 / 2.0, own**2 / 2.0  # |x - y|² = 2 (1 - cos) for unit vectors
    else:
        distance, own = distance / np.sqrt(x.shape[1]), own / np.sqrt(x.shape[1])
    threshold = float(np.quantile(own, quantile))
    return NearestReal(index[:, 0], distance, own, threshold, distance <= threshold)


def unit_rows(x: Floats) -> Floats:
    """Returns rows at length 1, float64 [n, d].

    Raises:
      UserError: a row has length 0.
    """
    length: Floats = np.linalg.norm(x, axis=1, keepdims=True)
    if not length.all():
        raise UserError("a row of features has length 0, so it has no angle; give features of a backbone, or metric='pixels'.")
    return x / length
