"""Labelled images as encoded files in memory or on disk, the task made of them, and the batches that streams make of both."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from bridgejax.data.stored import StoredImages


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled images.

    Attributes:
      images: encoded files of `bridgejax.data.images.KNOWN_FORMATS`, one per example.
      labels: int32 [n], positions in the task's class names.
      ids: one name per example, unique within its source and the same on every machine.
      side: what their shorter sides are reduced to, at most, wherever they are decoded; None leaves them.
    """

    images: Sequence[bytes]
    labels: npt.NDArray[np.int32]
    ids: tuple[str, ...]
    side: int | None = None

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.labels) == len(self.ids):
            raise ValueError(f"{len(self.images)} images, {len(self.labels)} labels and {len(self.ids)} ids: must be equal")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: Iterable[int]) -> Examples:
        """Returns the examples at the given positions, in that order."""
        chosen = [int(i) for i in indices]
        images: Sequence[bytes] = (
            self.images.select(chosen) if isinstance(self.images, StoredImages) else tuple(self.images[i] for i in chosen)
        )
        return Examples(images, self.labels[chosen].astype(np.int32), tuple(self.ids[i] for i in chosen), self.side)

    def counts(self, num_classes: int) -> npt.NDArray[np.int64]:
        """Returns the number of examples per class, int64 [num_classes]."""
        return np.bincount(self.labels, minlength=num_classes)


def no_examples() -> Examples:
    """Returns none."""
    return Examples((), np.zeros(0, np.int32), ())


@dataclasses.dataclass(frozen=True)
class Task:
    """Class names with the real images to train, validate and test on.

    `digest` is a SHA-256 over the names and over which images, with which content and label, are in which part.
    """

    name: str
    class_names: tuple[str, ...]
    train: Examples
    validation: Examples | None
    test: Examples
    digest: str


class Batch(TypedDict):
    """What a stream yields, on the host."""

    image: npt.NDArray[np.uint8] | npt.NDArray[np.float32]  # [b, s, s, 3], or features of images [b, d]
    label: npt.NDArray[np.int32]  # [b]
    mask: NotRequired[npt.NDArray[np.float32]]  # [b], to evaluate on: 1 for an image, 0 for a row that fills up the last batch
    source: NotRequired[npt.NDArray[np.int32]]  # [b], of training batches: which of the stream's sources the image is from
    teacher_logits: NotRequired[npt.NDArray[np.float32]]  # [b, classes], where a teacher saw the images beforehand


def image_digest(images: Sequence[bytes], position: int, by_content: bool) -> str:
    """Returns a digest of one image's bytes; with `by_content=False`, of an image on disk its size instead."""
    if not by_content and isinstance(images, StoredImages):
        return f"{images.size(position)} bytes"
    return hashlib.sha256(images[position]).hexdigest()
