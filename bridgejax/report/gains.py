"""What each arm gains over the baseline, class by class."""

from __future__ import annotations

import dataclasses

import numpy as np

from bridgejax.report.statistics import LEVEL, PairedResults

REPLICATES = 1000  # a class is one of many, and its interval is wide: less would do


@dataclasses.dataclass(frozen=True)
class ClassGains:
    """The accuracy of `arm` minus that of `against` on each class, in [-1, 1]."""

    # arm, against: entries of the summary
    arm: str
    against: str
    gain: tuple[float | None, ...]  # None for a class that was not tested
    # low, high: the ends of the 95 % intervals; None with one seed
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    images: tuple[int, ...]  # tested, of each class


def class_gains(results: PairedResults, arm: str, against: str, classes: int) -> ClassGains | None:
    """Returns the gains of `arm` over `against`, two arms of the runs of one setting.

    Returns:
      None if the runs do not say each test image's class and answer, or share no seed.
    """
    from bridgejax.evaluation import per_class_gain

    if results.correct is None or not results.labelled or not classes:
        return None
    a, b = (results.correct[:, :, results.arms.index(name)].T for name in (arm, against))
    both = np.isfinite(a - b).any(axis=1)
    if not both.any():
        return None
    gains = per_class_gain(a[both], b[both], results.strata, classes, replicates=REPLICATES, level=LEVEL)
    unknown = (None,) * classes
    return ClassGains(
        arm=arm,
        against=against,
        gain=_plain(gains.gain),
        low=_plain(gains.low) if both.sum() > 1 else unknown,
        high=_plain(gains.high) if both.sum() > 1 else unknown,
        images=tuple(gains.images.tolist()),
    )


def _plain(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(value) if np.isfinite(value) else None for value in values)
