"""How alike generated images are to each other and to real ones, by the angle of their features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError
from bridgejax.evaluation.copies import unit_rows
from bridgejax.evaluation.inputs import Integers, real_numbers, whole_numbers

_ROWS = 1024  # compared at once
Cosines = npt.NDArray[np.float32]


def nearest_earlier(features: npt.ArrayLike, labels: npt.ArrayLike) -> Cosines:
    """Returns the cosine of each image to the most similar earlier one of its class, float32 [n]; -1 for the first.

    An image that is dropped wherever this reaches a threshold leaves the first of each group of near duplicates, and no two
    that are left are as alike as that. What comes later does not change it, so that a set may grow.

    Args:
      features: float [n, d], of a backbone.
      labels: [n], class numbers from 0.

    Raises:
      UserError: values or shapes that do not fit, or a row of length 0.
    """
    units, rows = _units(features, labels)
    found = np.full(len(rows), -1.0, np.float32)
    for label in np.unique(rows):
        mine = np.flatnonzero(rows == label)
        table = units[mine]
        for start in range(0, len(mine), _ROWS):
            block = table[start : start + _ROWS]
            cosines = block @ table[: start + len(block)].T
            earlier = np.arange(cosines.shape[1]) < start + np.arange(len(block))[:, None]
            found[mine[start : start + len(block)]] = np.where(earlier, cosines, -1.0).max(axis=1)
    return np.clip(found, -1.0, 1.0)


def real_margins(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    real_features: npt.ArrayLike,
    real_labels: npt.ArrayLike,
    class_names: Sequence[str],
) -> Cosines:
    """Returns how much more alike each generated image is to the real images of its own class than to those of others.

    The real filtering of He et al. 2023 (arXiv 2210.07574, section 3.2) drops generated images that are close to real images of
    another class, and says no more. Our choice: cosines of features, each image against the most similar real one of its class
    and the most similar one of all others.

    Args:
      features: float [n, d], of the generated images.
      labels: [n], their classes.
      real_features: float [m, d], of the real ones, by the same network.
      real_labels: [m], their classes.
      class_names: by label.

    Returns:
      float32 [n] in [-2, 2]: the cosine with the own class less that with the others; below 0 an image lies nearer to another
      class. With one class alone there is nothing nearer, and the other cosine is -1.

    Raises:
      UserError: a class has generated images but no real one; or values or shapes that do not fit.
    """
    units, rows = _units(features, labels)
    real, owners = _units(real_features, real_labels)
    if units.shape[1] != real.shape[1]:
        raise UserError(f"features of {units.shape[1]} and {real.shape[1]} numbers do not compare; use one network for both.")
    missing = np.setdiff1d(rows, owners)
    if len(missing):
        raise UserError(
            f"class {class_names[int(missing[0])]!r} has no real images, which the filter rule 'real' compares with; give it "
            "shots, or leave the rule out."
        )
    margins = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        cosines = units[part] @ real.T
        own = owners == rows[part, None]
        nearest_own, nearest_other = (np.where(which, cosines, -1.0).max(axis=1) for which in (own, ~own))
        margins[part] = nearest_own - nearest_other
    return margins


def _units(features: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Cosines, Integers]:
    table, rows = real_numbers("features", features), whole_numbers("labels", labels)
    if table.ndim != 2 or rows.shape != table.shape[:1]:
        raise UserError(f"features {list(table.shape)} and labels {list(rows.shape)} do not fit; give one label per row.")
    return unit_rows(table).astype(np.float32), rows
