"""Which images of a synthetic set are kept: rules on one number per image, class by class."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError, choices, whole_number
from bridgejax.evaluation.inputs import Booleans, Floats, Integers, real_numbers, whole_numbers

SCORE_RULES = ("above_chance", "quota", "top", "percentile")


def select(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    rule: str = "above_chance",
    count: int | None = None,
    *,
    percentile: float | None = None,
    classes: int | None = None,
    seed: int = 0,
) -> Booleans:
    """Returns which images a rule keeps, bool [n]; each class is judged by itself, and one that keeps nothing is no error here.

    The rules (He et al. 2023, arXiv 2210.07574, C.5.1, and its released code for `quota`; `percentile` is ours):
      above_chance: score > 1 / classes, both in the precision of the scores.
      quota: `count` images: of those above chance, drawn at random if more pass; if fewer pass, all of them and the highest of
        the rest.
      top: the `count` highest.
      percentile: the share 1 - percentile / 100 with the highest scores, rounded up to whole images, so that 0 keeps all and
        at least one is left of every class.
    Of equal scores the earlier image goes first. A class with fewer than `count` images keeps all that the rule looks at.

    Args:
      scores: [n], the probability of each image's class (for `top` and `percentile` any finite numbers).
      labels: [n], class numbers from 0.
      rule: one of `SCORE_RULES`.
      count: images per class, for `quota` and `top`.
      percentile: in [0, 100), for `percentile`.
      classes: how many classes there are; None is the highest label plus 1.
      seed: of quota's draw, at least 0. What a class draws depends on it, its label and its own scores alone, and the draw of
        a smaller count is part of that of a larger one.

    Raises:
      UserError: shapes that do not fit, values that are no numbers, an unknown rule, or a number that it lacks or does not use.
    """
    values, rows = _checked(scores, labels, classes)
    classes = classes or int(rows.max(initial=0)) + 1
    _check_rule(rule, count, percentile)
    whole_number("seed", seed, 0)
    given = np.asarray(scores).dtype
    # The float32 nearest to 1 / 10 is above it as a float64.
    above: Booleans = values > np.asarray(1.0 / classes, given if np.issubdtype(given, np.floating) else float)
    if rule == "above_chance":
        return above
    kept = np.zeros(len(values), bool)
    for label in np.unique(rows):
        mine = np.flatnonzero(rows == label)
        ranked = mine[np.argsort(-values[mine], kind="stable")]
        if rule == "percentile":
            share = len(mine) * (100.0 - float(percentile or 0.0)) / 100.0
            kept[ranked[: math.ceil(share - 1e-9)]] = True
        elif rule == "top" or above[mine].sum() <= whole_number("count", count, 1):
            kept[ranked[:count]] = True
        else:
            drawn = np.random.default_rng([int(seed), int(label)]).random(len(mine))
            passing = mine[np.argsort(drawn, kind="stable")]
            kept[passing[above[passing]][:count]] = True
    return kept


def _checked(scores: npt.ArrayLike, labels: npt.ArrayLike, classes: int | None) -> tuple[Floats, Integers]:
    if classes is not None:
        whole_number("classes", classes, 1)
    values, rows = real_numbers("scores", scores), whole_numbers("labels", labels, classes)
    if values.ndim != 1 or rows.shape != values.shape:
        raise UserError(f"scores {list(values.shape)} and labels {list(rows.shape)} do not fit; give one of each per image.")
    return values, rows


def _check_rule(rule: str, count: int | None, percentile: float | None) -> None:
    if rule not in SCORE_RULES:
        raise UserError(f"rule is {rule!r}; {choices(rule, SCORE_RULES)}")
    if rule in ("quota", "top"):
        whole_number("count", count, 1)
    elif count is not None:
        raise UserError(f"count is {count!r}, but the rule {rule!r} counts nothing; leave it out, or use 'quota' or 'top'.")
    if (rule == "percentile") != (percentile is not None):
        raise UserError("percentile goes with the rule 'percentile', and with that alone; give both or neither.")
    if percentile is not None and not 0 <= percentile < 100:
        raise UserError(f"percentile is {percentile!r}; give a number of at least 0 and below 100.")
