"""LEEP on an equal footing: every network is given the same number of pseudo-classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError, whole_number
from bridgejax.evaluation.inputs import Floats, real_numbers, whole_numbers
from bridgejax.evaluation.leep import leep

_ROUNDS = 500


def leep_matched(
    features: npt.ArrayLike, labels: npt.ArrayLike, pseudo_classes: int | None = None, seed: int = 0, restarts: int = 5
) -> float:
    """Returns a LEEP score (nats, at most 0) that does not depend on how many classes the network's own head has.

    Plain LEEP depends on the number of source classes: the ImageNet head explains the targets by 1000 pseudo-classes, a head
    trained on C synthetic classes by C. As in N-LEEP (Li et al. 2021, "Ranking Neural Checkpoints", arXiv 2011.11200), the
    head is set aside: a mixture of Gaussians is fitted to the features of the target images, without their labels, and LEEP
    is computed of the posteriors p(z | x) of its components. Here every network gets as many components as there are target
    classes. Two choices make it well defined for few images: the components share one spherical variance, fitted by maximum
    likelihood (expectation maximisation from k-means++ starts, the best of `restarts` by likelihood), and there is no
    principal component step before it. The score changes with neither the scale nor a rotation of the features. It says
    nothing where there are hardly more images than components: as many as images explain everything.

    Args:
      features: float [n, d], what the network's head sees of the target images.
      labels: int [n], their classes, from 0.
      pseudo_classes: components; None takes the number of classes that occur. At most as many as there are different rows.
      seed: of the starts.
      restarts: how many starts, at least 1.

    Raises:
      UserError: shapes that do not fit, values that are not finite, labels that are not whole numbers from 0, or more
        pseudo-classes than different images.
    """
    x, y = real_numbers("features", features), whole_numbers("labels", labels)
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y) or not x.size:
        raise UserError(f"features {list(x.shape)} and labels {list(y.shape)} do not fit; give [n, d] and [n], n at least 1.")
    restarts = whole_number("restarts", restarts, 1)
    count = len(np.unique(y)) if pseudo_classes is None else whole_number("pseudo_classes", pseudo_classes, 1)
    different = len(np.unique(x, axis=0))
    if count > different:
        raise UserError(f"pseudo_classes is {count}; give at most {different}: so many rows of features differ.")
    return leep(shared_variance_posteriors(x, count, seed, restarts), y)


def shared_variance_posteriors(x: Floats, components: int, seed: int = 0, restarts: int = 5) -> Floats:
    """Fits a mixture of Gaussians of one variance by maximum likelihood; returns p(z | x_i), float64 [n, components].

    Args:
      x: float64 [n, d].
      components: at most the number of different rows.
      seed: of the starts.
      restarts: how many starts; the most likely fit is returned.
    """
    rng = np.random.default_rng(seed)
    rows = x - x.mean(axis=0)
    rows /= np.sqrt((rows * rows).mean()) or 1.0
    fits = [_fit(rows, _starts(rows, components, rng)) for _ in range(restarts)]
    return max(fits, key=lambda fit: fit[0])[1]


def _squared(x: Floats, means: Floats) -> Floats:
    lengths = (x * x).sum(axis=1)[:, None] + (means * means).sum(axis=1)
    squared = lengths - 2.0 * (x @ means.T)
    return np.where(squared > 1e-12 * lengths, squared, 0.0)  # what rounding leaves of equal rows


def _starts(x: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Returns k-means++ centres [count, d] (Arthur and Vassilvitskii 2007): rows drawn by their squared distance."""
    chosen = [int(rng.integers(len(x)))]
    away = _squared(x, x[chosen])[:, 0]
    while len(chosen) < count:
        chosen.append(int(rng.choice(len(x), p=away / away.sum())))
        away = np.minimum(away, _squared(x, x[chosen[-1:]])[:, 0])
    return x[chosen]


def _fit(x: Floats, means: Floats) -> tuple[float, Floats]:
    """Returns the mean log likelihood (but for a constant) and the posteriors."""
    n, d = x.shape
    squared = _squared(x, means)
    weights = np.full(len(means), 1.0 / len(means))
    # A variance of exactly zero (as many components as rows) has no density: a floor far below the rows' mean square of 1.
    floor = 1e-9
    variance = max(float(squared.min(axis=1).sum() / (n * d)), floor)
    before, posteriors = -np.inf, np.ones_like(squared)
    for _ in range(_ROUNDS):
        with np.errstate(divide="ignore"):
            logs = np.log(weights) - squared / (2.0 * variance)
        top = logs.max(axis=1, keepdims=True)
        sums = np.exp(logs - top).sum(axis=1, keepdims=True)
        posteriors = np.exp(logs - top) / sums
        likelihood = float((top + np.log(sums)).mean() - 0.5 * d * np.log(variance))
        if likelihood - before <= 1e-12:
            break
        before = likelihood
        mass = posteriors.sum(axis=0)
        weights = mass / n
        used = mass > 0  # a component that lost every row keeps its mean and its weight of 0
        means = np.where(used[:, None], posteriors.T @ x / np.where(used, mass, 1.0)[:, None], means)
        squared = _squared(x, means)
        variance = max(float((posteriors * squared).sum() / (n * d)), floor)
    return likelihood, posteriors
