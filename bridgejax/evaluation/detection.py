"""Average precision of detectors, as Pascal VOC scores them (Everingham et al. 2010, section 4.2)."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError
from bridgejax.evaluation.inputs import Booleans, Floats, Integers, real_numbers, whole_numbers


@dataclasses.dataclass(frozen=True)
class BoxSet:
    """Boxes in images, true or found.

    Attributes:
      image: int [n], which image each is in.
      label: int [n], of which class it is.
      corners: float [n, 4]: left, top, right and bottom, in any unit. VOC's own files name the last pixel inside: add 1 to
        right and bottom.

    Raises:
      UserError: shapes that do not fit, or a box whose right or bottom lies before its left or top.
    """

    image: npt.ArrayLike
    label: npt.ArrayLike
    corners: npt.ArrayLike

    def __post_init__(self) -> None:
        corners = real_numbers("corners", np.zeros((0, 4)) if np.size(self.corners) == 0 else self.corners)
        image, label = whole_numbers("image", self.image), whole_numbers("label", self.label)
        if corners.ndim != 2 or corners.shape[1:] != (4,) or not image.shape == label.shape == corners.shape[:1]:
            raise UserError(
                f"boxes have images {list(image.shape)}, labels {list(label.shape)} and corners {list(corners.shape)}; give "
                "[n], [n] and [n, 4]."
            )
        if (corners[:, 2:] < corners[:, :2]).any():
            raise UserError("a box ends before it begins; give corners as left, top, right, bottom.")
        for name, value in (("image", image), ("label", label), ("corners", corners)):
            object.__setattr__(self, name, value)


def average_precisions(
    found: BoxSet,
    scores: npt.ArrayLike,
    true: BoxSet,
    classes: int,
    *,
    difficult: npt.ArrayLike | None = None,
    overlap: float = 0.5,
    points: int | None = None,
) -> Floats:
    """Returns each class's average precision, float64 [classes], NaN of a class without true boxes. AP50: its mean times 100.

    Boxes found are taken from the highest score down. One is right if, of the true boxes of its class and image, the one with
    which its intersection over union is largest has more than `overlap` and was not found before. Precision at a recall is the
    best at that recall or a higher one.

    Args:
      found: the detector's boxes.
      scores: float [n], of `found`.
      true: the annotated boxes.
      classes: how many classes there are.
      difficult: bool per true box; those are not counted, and neither is what finds them. None: none is.
      overlap: in [0, 1).
      points: take the mean of the precision at so many recalls, evenly from 0 to 1 (11 in VOC 2007); None takes the area under
        it (from VOC 2010 on).

    Raises:
      UserError: there are no true boxes that count, shapes that do not fit, or a number is out of range.
    """
    marks = np.zeros(np.shape(true.label), bool) if difficult is None else np.asarray(difficult, bool)
    strengths, labels = real_numbers("scores", scores), whole_numbers("label", true.label, classes)
    if strengths.shape != np.shape(found.label) or marks.shape != labels.shape:
        raise UserError(f"{strengths.size} scores and {marks.size} marks do not fit the boxes; give one for each.")
    if not 0 <= overlap < 1 or (points is not None and points < 2):
        raise UserError(f"overlap = {overlap!r} and points = {points!r}; give one in [0, 1), and at least 2 or None.")
    if not (~marks).any():
        raise UserError("there are no true boxes to find; give a set with annotated boxes.")
    result = np.full(classes, np.nan)
    order = np.argsort(-strengths, kind="stable")
    for label in np.unique(labels[~marks]):
        chosen = order[whole_numbers("label", found.label, classes)[order] == label]
        right, counts = _judged(found, chosen, true, np.flatnonzero(labels == label), marks, overlap)
        hits = np.cumsum(right[counts])
        total = int((~marks[labels == label]).sum())
        result[label] = _average(hits / total, hits / np.arange(1, len(hits) + 1), points)
    return result


def _judged(
    found: BoxSet, chosen: Integers, true: BoxSet, mine: Integers, difficult: Booleans, overlap: float
) -> tuple[Booleans, Booleans]:
    """Returns which of the `chosen` boxes, best first, are right, and which count at all."""
    right, counts, taken = np.zeros(len(chosen), bool), np.ones(len(chosen), bool), np.zeros(len(difficult), bool)
    images, corners, places = np.asarray(found.image), np.asarray(found.corners), np.asarray(true.image)
    for rank, position in enumerate(chosen):
        near = mine[places[mine] == images[position]]
        shares = _overlaps(corners[position], np.asarray(true.corners)[near])
        if not len(near) or shares.max() <= overlap:
            continue
        best = near[shares.argmax()]
        counts[rank] = not difficult[best]
        right[rank] = not taken[best]
        taken[best] = True
    return right, counts


def _overlaps(box: Floats, others: Floats) -> Floats:
    """Returns the intersection over union of a box [4] with others [m, 4], float64 [m]."""
    sides = np.clip(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0, None)
    shared = sides.prod(1)
    whole = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _average(recall: Floats, precision: Floats, points: int | None) -> float:
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if points is None:
        return float((np.diff(recall, prepend=0.0) * best).sum())
    at = np.searchsorted(recall, np.linspace(0, 1, points) - 1e-12)  # the first rank with at least that recall
    return float(np.append(best, 0.0)[at].mean())
