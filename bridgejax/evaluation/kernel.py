"""The kernel distance between two clouds of features."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from bridgejax.errors import whole_number
from bridgejax.evaluation.inputs import Floats, check_features
from bridgejax.evaluation.pairs import LARGEST_CUBED, cubic_kernel_sums


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """A squared maximum mean discrepancy.

    Attributes:
      distance: the estimate; unbiased, so it can fall below 0 where the two distributions are alike.
      standard_error: see the function that made it.
      images: how many rows of the two tables entered each estimate.
      subsets: how many estimates were averaged; 0 where all rows entered one.
    """

    distance: float
    standard_error: float
    images: tuple[int, int]
    subsets: int = 0


def kernel_distance(a: npt.ArrayLike, b: npt.ArrayLike) -> KernelDistance:
    """Returns the kernel distance (Bińkowski et al. 2018, "Demystifying MMD GANs", arXiv 1801.01401) over all rows.

    With k(x, y) = (x·y / d + 1)³, the unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, lemma 6):
      Σ_{i≠j} k(a_i, a_j) / (n (n - 1)) + Σ_{i≠j} k(b_i, b_j) / (m (m - 1)) - 2 Σ_{i,j} k(a_i, b_j) / (n m).
    The paper averages it over subsets to save work; here blocks save the memory, and no row is left out
    (`kernel_distance_subsets` gives the paper's figure). Its expectation does not depend on n and m, as that of the Fréchet
    distance does: few images make it noisy, not large.

    `standard_error` is that of drawing other images: the first-order (Hoeffding) projection of the U-statistic,
      √(4 var_i(g_i) / n + 4 var_j(h_j) / m),  g_i = mean_{j≠i} k(a_i, a_j) - mean_j k(a_i, b_j),  h_j likewise.
    Where the distributions are equal the projection is zero in truth, and what is reported is an upper end.

    Args:
      a: float [n, d], n ≥ 2.
      b: float [m, d], m ≥ 2.

    Raises:
      UserError: shapes that do not fit, or values that are not finite real numbers or whose cubes overflow.
    """
    x, y = check_features(2, LARGEST_CUBED, a=a, b=b)
    n, m = len(x), len(y)
    own_x, own_y = _without_itself(x), _without_itself(y)
    x_to_y, y_to_x = cubic_kernel_sums(x, y)
    g = own_x / (n - 1) - x_to_y / m
    h = own_y / (m - 1) - y_to_x / n
    variance = 4.0 * g.var(ddof=1) / n + 4.0 * h.var(ddof=1) / m
    return KernelDistance(float(g.mean() + h.mean()), float(np.sqrt(variance)), (n, m))


def _without_itself(x: Floats) -> Floats:
    """Returns Σ_{j≠i} (k(x_i, x_j) - 1), float64 [n]."""
    diagonal: Floats = (x * x).mean(axis=1)
    return cubic_kernel_sums(x, x)[0] - ((diagonal + 1.0) ** 3 - 1.0)


def kernel_distance_subsets(
    a: npt.ArrayLike, b: npt.ArrayLike, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Returns the kernel distance as it is usually published: the mean over random subsets of equal size.

    `standard_error` is the standard deviation over the subsets (n - 1) divided by √subsets. That is the error of having
    drawn so many subsets of these images, not of having these images: for the latter see `kernel_distance`.

    Args:
      a: float [n, d].
      b: float [m, d].
      subsets: how many pairs of subsets, at least 2.
      subset_size: rows drawn from each table without replacement, at least 2; at most as many as there are are taken.
      seed: of the draws.

    Raises:
      UserError: shapes that do not fit, values that are not finite real numbers or whose cubes overflow, or fewer than 2
        subsets or rows.
    """
    subsets, subset_size = whole_number("subsets", subsets, 2), whole_number("subset_size", subset_size, 2)
    x, y = check_features(2, LARGEST_CUBED, a=a, b=b)
    size = min(subset_size, len(x), len(y))
    rng = np.random.default_rng(seed)
    distances = [
        kernel_distance(x[rng.choice(len(x), size, replace=False)], y[rng.choice(len(y), size, replace=False)]).distance
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(distances)), float(np.std(distances, ddof=1) / np.sqrt(subsets)), (size, size), subsets)
