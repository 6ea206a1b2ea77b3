"""The Fréchet distance between two clouds of features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError


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
      UserError: shapes that do not fit, or values that are not finite.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise UserError(
            f"features {list(x.shape)} and {list(y.shape)} do not fit; give [n, d] and [m, d], at least 2 rows each."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError("features hold NaN or infinity; give finite numbers.")
    difference = x.mean(axis=0) - y.mean(axis=0)
    root_a = np.linalg.qr(x - x.mean(axis=0), mode="r") / np.sqrt(len(x) - 1)
    root_b = np.linalg.qr(y - y.mean(axis=0), mode="r") / np.sqrt(len(y) - 1)
    trace = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = difference @ difference + (root_a**2).sum() + (root_b**2).sum() - 2.0 * trace
    return float(max(distance, 0.0))
