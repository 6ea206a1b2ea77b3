"""Which images are drawn: few-shot subsets by seed, in which near duplicates never part."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bridgejax.errors import UserError
from bridgejax.identity import derive_seed
from bridgejax.prompts import display_name

TEST_SHARE = 0.25  # of a pool without a test part, when every image may be used


@dataclasses.dataclass(frozen=True)
class Draw:
    """Positions in the pool, each ascending and disjoint."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def draw(
    labels: Sequence[int] | np.ndarray,
    ids: Sequence[str],
    groups: Sequence[object],
    class_names: Sequence[str],
    *,
    shots: int | None,
    validation_per_class: int,
    seed: int,
    test_from_pool: bool,
    where: str,
) -> Draw:
    """Draws the training and validation images of each class, and what is left for testing.

    Per class, the groups of near duplicates are put in an order that depends on (seed, class name) and the ids alone;
    the first `shots` groups give one image each, so that 1 shot is part of 4 shots. Of these, `validation_per_class` are
    set aside for validation. Everything else is test, but for the near duplicates of drawn images, which are left out.

    Args:
      labels: class of each image of the pool.
      ids, groups: its name, and what it shares with its near duplicates.
      class_names: names by label.
      shots: images drawn per class, validation included; None draws all of a pool with a test part of its own, and all
        but a quarter of the groups (at least one) of any other.
      validation_per_class: how many of the drawn images are for validation.
      seed: of the draw.
      test_from_pool: the undrawn images are the test part (else they are unused).
      where: the source, for messages.

    Raises:
      UserError: a class has too few images.
    """
    if shots is not None and (isinstance(shots, bool) or int(shots) != shots or shots < 1):
        raise UserError(f"task.shots={shots!r} is not a whole number of at least 1; give one, or None for all images.")
    if validation_per_class < 0 or (shots is not None and validation_per_class >= shots):
        raise UserError(
            f"task.validation_per_class={validation_per_class} must be at least 0 and below task.shots={shots}, "
            "for validation images are set aside out of the training images."
        )
    train: list[int] = []
    validation: list[int] = []
    test: list[int] = []
    labels = np.asarray(labels)
    for label, name in enumerate(class_names):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=lambda i: ids[i])
        rng = np.random.default_rng(derive_seed(seed, "few-shot", display_name(name)))
        together: dict[object, list[int]] = {}
        for i in members:
            together.setdefault(groups[i], []).append(i)
        parts = list(together.values())
        parts = [parts[k] for k in rng.permutation(len(parts))]
        take = _how_many(name, len(parts), len(members), shots, validation_per_class, test_from_pool, where)
        # One image of a group each, except that all of a group may be trained on when every image is wanted.
        apart = parts[take - validation_per_class : take]
        kept = parts[: take - validation_per_class]
        if shots is None:
            train += [i for part in kept for i in part]
        else:
            train += [part[int(rng.integers(len(part)))] for part in kept]
        validation += [part[0] for part in apart]
        if test_from_pool:
            test += [i for part in parts[take:] for i in part]
    return Draw(tuple(sorted(train)), tuple(sorted(validation)), tuple(sorted(test)))


def _how_many(
    name: str, groups: int, images: int, shots: int | None, validation_per_class: int, test_from_pool: bool, where: str
) -> int:
    """Returns how many groups of a class are drawn."""
    alike = "" if groups == images else f" ({groups} without near duplicates)"
    if shots is not None:
        if shots + test_from_pool > groups:
            rest = " and leave one to test on" if test_from_pool else ""
            raise UserError(
                f"class {name!r} of {where} has {images} images{alike}, too few to draw task.shots={shots}{rest}; "
                "lower task.shots."
            )
        return shots
    take = groups - max(1, round(groups * TEST_SHARE)) if test_from_pool else groups
    if take - validation_per_class < 1:
        raise UserError(
            f"class {name!r} of {where} has {images} images{alike}, too few for training, "
            f"validation ({validation_per_class}) and testing; add images or lower task.validation_per_class."
        )
    return take
