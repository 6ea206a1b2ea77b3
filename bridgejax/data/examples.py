"""Labelled images as encoded files in memory or on disk, and the task made of them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from bridgejax.data.stored import StoredImages


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled images.

    Attributes:
      images: encoded files (PNG, JPEG, WebP, BMP or GIF), one per example.
      labels: int32 [n], positions in the task's class names.
      ids: one name per example, unique within its source and the same on every machine.
    """

    images: Sequence[bytes]
    labels: np.ndarray
    ids: tuple[str, ...]

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
        return Examples(images, self.labels[chosen].astype(np.int32), tuple(self.ids[i] for i in chosen))

    def counts(self, num_classes: int) -> np.ndarray:
        """Returns the number of examples per class, int64 [num_classes]."""
        return np.bincount(self.labels, minlength=num_classes)


@dataclasses.dataclass(frozen=True)
class Task:
    """Class names with the real images to train on, to choose by and to judge by.

    `digest` is a SHA-256 over the names and over which images, with which content and label, are in which part.
    """

    name: str
    class_names: tuple[str, ...]
    train: Examples
    validation: Examples | None
    test: Examples
    digest: str


def image_digest(images: Sequence[bytes], position: int, whole: bool) -> str:
    """Returns a digest of one image: of its bytes, or with `whole=False`, if it lies on disk, of its size alone."""
    if not whole and isinstance(images, StoredImages):
        return f"{images.size(position)} bytes"
    return hashlib.sha256(images[position]).hexdigest()
