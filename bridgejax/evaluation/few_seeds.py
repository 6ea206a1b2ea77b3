"""How much a bootstrap interval over few seeds must be widened."""

from __future__ import annotations

import math


def widening(sd: float, seeds: int, variance: float, level: float) -> float:
    """Returns the factor by which a bootstrap interval over seeds and images must grow about its mean to keep its level.

    Of n seeds the bootstrap finds (n - 1) / n of the variance between them, and takes this estimate from n numbers as certain.
    The factor is the ratio of two half-widths: Student's, with the full variance, to the bootstrap's own. The degrees of
    freedom are Satterthwaite's ("An approximate distribution of estimates of variance components", Biometrics 1946): n - 1
    where seeds make all of the variance, many where images do.

    Args:
      sd: between the seeds' values (n - 1).
      seeds: how many, at least 2.
      variance: of the bootstrap's means.
      level: of the interval, in (0, 1).
    """
    from scipy.special import ndtri, stdtrit

    if sd == 0.0 or variance == 0.0:
        return 1.0
    of_seeds = sd**2 / seeds
    full = variance + of_seeds / seeds
    freedom = (seeds - 1) * (full / of_seeds) ** 2
    tail = (1.0 + level) / 2.0
    return float(stdtrit(freedom, tail) / ndtri(tail)) * math.sqrt(full / variance)
