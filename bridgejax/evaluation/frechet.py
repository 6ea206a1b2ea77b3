"""The Fréchet distance between two clouds of features."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError, whole_number
from bridgejax.evaluation.inputs import Floats, check_features


def frechet_distance(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Returns |μ_a - μ_b|² + tr(C_a + C_b - 2·(C_a C_b)^½), the squared 2-Wasserstein distance of two normal distributions.

    Means and covariances (divided by n - 1, as in Heusel et al. 2017, arXiv 1706.08500) are those of the rows, in float64.
    With C_a = R_aᵀR_a / (n - 1) from a QR decomposition of the centred rows, the trace of the root is the sum of the singular
    values of R_a R_bᵀ: real and exact for covariances without full rank too, where a root of eigenvalues is not.

    Args:
      a: float [n, d], n ≥ 2.
      b: float [m, d], m ≥ 2.

    Returns:
      The distance, at least 0, in the features' units squared.

    Raises:
      UserError: shapes that do not fit, or values that are not finite real numbers or whose squares overflow.
    """
    x, y = check_features(2, 1e140, a=a, b=b)  # float64 ends at 1.8e308: room for squares and their sums
    difference = x.mean(axis=0) - y.mean(axis=0)
    root_a = np.linalg.qr(x - x.mean(axis=0), mode="r") / np.sqrt(len(x) - 1)
    root_b = np.linalg.qr(y - y.mean(axis=0), mode="r") / np.sqrt(len(y) - 1)
    trace = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = difference @ difference + (root_a**2).sum() + (root_b**2).sum() - 2.0 * trace
    return float(max(distance, 0.0))


@dataclasses.dataclass(frozen=True)
class FrechetInterval:
    """A Fréchet distance, or the difference of two, with a bootstrap interval over images.

    Attributes:
      estimate: `frechet_distance(a, b)`, or `frechet_distance(a, b) - frechet_distance(minus, b)`.
      low, high: the ends of the interval.
      standard_error: the standard deviation of the bootstrap replicates (n - 1).
      level: what share of such intervals should hold the truth.
      replicates: bootstrap replicates.
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    level: float
    replicates: int


def frechet_interval(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    minus: npt.ArrayLike | None = None,
    replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> FrechetInterval:
    """Returns the Fréchet distance of two clouds with an interval over the images that happened to be in them.

    Every replicate draws the images of each cloud anew, with replacement. The estimate is too large for few images (its
    bias shrinks as 1 / images: Chong and Forsyth 2020, arXiv 1911.07023), and a resampled cloud, which repeats images,
    adds about the same bias again. So the interval is the basic one, [2·estimate - q_high, 2·estimate - q_low] with the
    replicates' quantiles (Davison and Hinkley 1997, section 5.2), which takes the bias off: it may lie below the
    estimate, and its ends may be negative. With fewer images than features most of the bias remains. Then compare: in
    `minus`, the bias of two clouds of equal size cancels, and both differences are taken with the same draw of `b`.

    Args:
      a: float [n, d], n ≥ 2.
      b: float [m, d], m ≥ 2; the real images, when two generators are compared.
      minus: float [k, d], k ≥ 2: another cloud whose distance to `b` is taken off.
      replicates: at least 2. One costs a singular value decomposition of at most min(n, d) × min(m, d).
      level: in (0, 1).
      seed: of the draws.

    Raises:
      UserError: shapes that do not fit, values that are not finite, or numbers out of range.
    """
    replicates = whole_number("replicates", replicates, 2)
    if not 0 < level < 1:
        raise UserError(f"level is {level}; give a number between 0 and 1.")
    estimate = frechet_distance(a, b)
    clouds = [np.asarray(a, np.float64)]
    real = np.asarray(b, np.float64)
    if minus is not None:
        estimate -= frechet_distance(minus, b)
        clouds.append(np.asarray(minus, np.float64))
    pairs = [_Pair(cloud, real) for cloud in clouds]
    rng = np.random.default_rng(seed)
    values = np.empty(replicates)
    for number in range(replicates):
        drawn = _draw(rng, len(real))
        distances = [pair.distance(_draw(rng, len(cloud)), drawn) for pair, cloud in zip(pairs, clouds, strict=True)]
        values[number] = distances[0] - sum(distances[1:])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return FrechetInterval(
        estimate, float(2 * estimate - high), float(2 * estimate - low), float(values.std(ddof=1)), level, replicates
    )


def _draw(rng: np.random.Generator, count: int) -> Floats:
    """Returns how often each row is drawn, float64 [count]; at least two different rows, else there is no covariance."""
    while True:
        weights = np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64)
        if np.count_nonzero(weights) > 1:
            return weights


class _Pair:
    """Two clouds whose rows are drawn again and again.

    tr((C_a C_b)^½) is the sum of the singular values of R_a R_bᵀ for any roots C = RᵀR. The centred rows, scaled by the roots
    of their weights, are such roots: where a cloud has fewer rows than columns, all products of rows are taken once and a
    replicate only centres and scales them.
    """

    def __init__(self, a: Floats, b: Floats) -> None:
        self.few = min(len(a), len(b)) <= a.shape[1] and len(a) * len(b) <= 1 << 26
        centre = b.mean(axis=0)
        self.a, self.b = a - centre, b - centre
        self.products = self.a @ self.b.T if self.few else None

    def distance(self, weights_a: Floats, weights_b: Floats) -> float:
        """Returns the distance of the clouds with rows repeated as often as the weights say."""
        count_a, count_b = weights_a.sum(), weights_b.sum()
        mean_a, mean_b = weights_a @ self.a / count_a, weights_b @ self.b / count_b
        spread = sum(
            float(weights @ ((rows - mean) ** 2).sum(axis=1)) / (count - 1)
            for rows, weights, mean, count in ((self.a, weights_a, mean_a, count_a), (self.b, weights_b, mean_b, count_b))
        )
        in_a, in_b = weights_a > 0, weights_b > 0
        if self.products is not None:
            table = self.products - (weights_a @ self.products / count_a)
            table = (table - (table @ weights_b / count_b)[:, None])[np.ix_(in_a, in_b)]
            table *= np.sqrt(np.outer(weights_a[in_a], weights_b[in_b]))
        else:
            root_a = np.asarray(np.linalg.qr((self.a[in_a] - mean_a) * np.sqrt(weights_a[in_a, None]), mode="r"))
            root_b = np.asarray(np.linalg.qr((self.b[in_b] - mean_b) * np.sqrt(weights_b[in_b, None]), mode="r"))
            table = root_a @ root_b.T
        trace = np.linalg.svd(table, compute_uv=False).sum() / np.sqrt((count_a - 1) * (count_b - 1))
        return float(max(((mean_a - mean_b) ** 2).sum() + spread - 2.0 * trace, 0.0))
