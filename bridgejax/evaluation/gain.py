"""What a method gains on each class over a baseline, on the same seeds and the same test images."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError, whole_number
from bridgejax.evaluation.few_seeds import widening
from bridgejax.evaluation.inputs import Floats, Integers, real_numbers, whole_numbers


@dataclasses.dataclass(frozen=True)
class PerClassGain:
    """Differences of per-class accuracies with bootstrap intervals.

    Attributes:
      gain: float64 [classes] in [-1, 1], averaged over seeds; NaN for a class that was not tested.
      low, high: float64 [classes], the ends of the intervals, each by itself: of many classes, some lie off by chance. NaN
        where there is neither a second seed nor a second image.
      images: int64 [classes], how many test images of the class there are, each counted once over all seeds.
      level: of the intervals.
    """

    gain: Floats
    low: Floats
    high: Floats
    images: Integers
    level: float


def per_class_gain(
    correct: npt.ArrayLike,
    baseline: npt.ArrayLike,
    labels: npt.ArrayLike,
    classes: int | None = None,
    *,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> PerClassGain:
    """Returns the accuracy of a method minus that of the baseline, class by class.

    Every replicate draws seeds, and the images of each class, with replacement and independently of each other (the
    pigeonhole bootstrap: Owen 2007). Both arms see the same draws, so the difference is paired by seed and by image. A class's
    accuracy in a seed is the share of its drawn images that are right; the gain is the mean over the drawn seeds. With few
    seeds the interval is wider than the bootstrap's own (`bridgejax.evaluation.few_seeds`).

    Args:
      correct: [images] or [seeds, images]: 1 right, 0 wrong, NaN where a seed did not test the image.
      baseline: the same of the baseline. What only one of the two tested counts for neither.
      labels: int [images], the true classes.
      classes: how many there are; None takes the largest label + 1.
      replicates: bootstrap replicates, at least 2.
      level: in (0, 1).
      seed: of the draws.

    Raises:
      UserError: shapes that do not fit, or labels or numbers out of range.
    """
    both = (("correct", correct), ("baseline", baseline))
    a, b = (np.atleast_2d(real_numbers(name, values, finite=False)) for name, values in both)
    true = whole_numbers("labels", labels, None if classes is None else whole_number("classes", classes, 1))
    if a.shape != b.shape or a.ndim != 2 or true.shape != a.shape[1:] or not a.size:
        raise UserError(
            f"correct {list(a.shape)}, baseline {list(b.shape)} and labels {list(true.shape)} do not fit; "
            "give [seeds, images] twice and [images]."
        )
    count = int(true.max()) + 1 if classes is None else classes
    if replicates < 2 or not 0 < level < 1:
        raise UserError(f"replicates={replicates} must be at least 2 and level={level} between 0 and 1.")
    rng = np.random.default_rng(seed)
    seeds = len(a)
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates).astype(np.float64)
    gain, low, high = (np.full(count, np.nan) for _ in range(3))
    images = np.zeros(count, np.int64)
    for label in range(count):
        columns = true == label
        difference = (a - b)[:, columns]
        tested = np.isfinite(difference)
        difference, tested = difference[:, tested.any(axis=0)], tested[:, tested.any(axis=0)]
        images[label] = difference.shape[1]
        if not images[label]:
            continue
        filled, seen = np.nan_to_num(difference), tested.astype(np.float64)
        once = np.ones((1, images[label]))
        gain[label] = _mean_gain(once, np.ones((1, seeds)), filled, seen)[0]
        if seeds == 1 and images[label] == 1:
            continue
        drawn = _mean_gain(_image_weights(rng, int(images[label]), replicates), seed_weights, filled, seen)
        drawn = drawn[np.isfinite(drawn)]
        own = _mean_gain(once, np.eye(seeds), filled, seen)
        own = own[np.isfinite(own)]
        wider = widening(float(own.std(ddof=1)), len(own), float(drawn.var()), level) if len(own) > 1 else 1.0
        ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        low[label], high[label] = np.clip(gain[label] + wider * (ends - gain[label]), -1.0, 1.0)
    return PerClassGain(gain, low, high, images, level)


def _image_weights(rng: np.random.Generator, images: int, replicates: int) -> Floats:
    """Returns how often each image is drawn, float64 [replicates, images]."""
    drawn = rng.integers(0, images, (replicates, images)) + images * np.arange(replicates)[:, None]
    return np.bincount(drawn.reshape(-1), minlength=replicates * images).reshape(replicates, images).astype(np.float64)


def _mean_gain(weights: Floats, seed_weights: Floats, difference: Floats, tested: Floats) -> Floats:
    """Image weights [r, n], seed weights [r, s], differences and tested [s, n] → float64 [r]; NaN where nothing is drawn."""
    total, seen = weights @ difference.T, weights @ tested.T
    by_seed = np.divide(total, seen, out=np.zeros_like(total), where=seen > 0)
    used = seed_weights * (seen > 0)
    mass = used.sum(axis=1)
    return np.divide((used * by_seed).sum(axis=1), mass, out=np.full(len(mass), np.nan), where=mass > 0)
