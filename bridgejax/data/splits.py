"""How a task's images are split: few-shot subsets by seed, in which near duplicates are never separated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError
from bridgejax.identity import derive_seed
from bridgejax.prompts import display_name

TEST_SHARE = 0.25  # of a pool without a test part, when no shot count is given


@dataclasses.dataclass(frozen=True)
class Split:
    """Positions in the pool, each part ascending, no two parts overlapping."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def split_pool(
    labels: Sequence[int] | npt.NDArray[np.int32],
    ids: Sequence[str],
    groups: Sequence[object],
    class_names: Sequence[str],
    *,
    shots: int | None,
    validation_per_class: int,
    seed: int,
    test_from_pool: bool,
    where: str,
) -> Split:
    """Splits a pool class by class into training images, validation images and, if wanted, test images.

    The groups of near duplicates of a class are put in an order that depends on (seed, class name) and the ids alone; the
    first `shots` groups give one image each, so that the images of 1 shot are among those of 4 shots. Of these,
    `validation_per_class` are set aside for validation. Every other image is for testing, except near duplicates of the
    images taken so far, which are left out.

    Args:
      labels: class of each image of the pool.
      ids, groups: its name, and a value that it shares with its near duplicates.
      class_names: names by label.
      shots: training images per class, validation included; None takes all of a pool whose task has a test part of its own,
        and all but a quarter of the groups (at least one) of any other.
      validation_per_class: how many of the shots are for validation.
      seed: decides the order.
      test_from_pool: the remaining images are the test part (else they are unused).
      where: the source, for messages.

    Raises:
      UserError: a class has too few images.
    """
    if shots is not None and (isinstance(shots, bool) or int(shots) != shots or shots < 1):
        raise UserError(f"task.shots={shots!r} is not a whole number of at least 1; give one, or None for all images.")
    if validation_per_class < 0 or (shots is not None and validation_per_class >= shots):
        raise UserError(
            f"task.validation_per_class={validation_per_class} must be at least 0 and below task.shots={shots}: "
            "validation images are set aside from the shots."
        )
    train: list[int] = []
    validation: list[int] = []
    test: list[int] = []
    labels = np.asarray(labels)
    for label, name in enumerate(class_names):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=lambda i: ids[i])
        rng = np.random.default_rng(derive_seed(seed, "few-shot", display_name(name)))
        by_group: dict[object, list[int]] = {}
        for i in members:
            by_group.setdefault(groups[i], []).append(i)
        duplicates = list(by_group.values())
        duplicates = [duplicates[k] for k in rng.permutation(len(duplicates))]
        taken = _groups_taken(name, len(duplicates), len(members), shots, validation_per_class, test_from_pool, where)
        # One image of each group, except that all of a group may be trained on when every image is wanted.
        for_training = duplicates[: taken - validation_per_class]
        if shots is None:
            train += [i for group in for_training for i in group]
        else:
            train += [group[int(rng.integers(len(group)))] for group in for_training]
        validation += [group[0] for group in duplicates[taken - validation_per_class : taken]]
        if test_from_pool:
            test += [i for group in duplicates[taken:] for i in group]
    return Split(tuple(sorted(train)), tuple(sorted(validation)), tuple(sorted(test)))


def _groups_taken(
    name: str, groups: int, images: int, shots: int | None, validation_per_class: int, test_from_pool: bool, where: str
) -> int:
    """Returns how many groups of a class are for training and validation."""
    alike = "" if groups == images else f" ({groups} without near duplicates)"
    if shots is not None:
        if shots + test_from_pool > groups:
            rest = " and leave one to test on" if test_from_pool else ""
            raise UserError(
                f"class {name!r} of {where} has {images} images{alike}, too few to take task.shots={shots}{rest}; "
                "lower task.shots, or study.shots where it is set."
            )
        return shots
    taken = groups - max(1, round(groups * TEST_SHARE)) if test_from_pool else groups
    if taken - validation_per_class < 1:
        parts, advice = "training and testing", "add images"
        if validation_per_class:
            parts, advice = (
                f"training, validation ({validation_per_class}) and testing",
                f"{advice} or lower task.validation_per_class",
            )
        raise UserError(f"class {name!r} of {where} has {images} images{alike}, too few for {parts}; {advice}.")
    return taken
