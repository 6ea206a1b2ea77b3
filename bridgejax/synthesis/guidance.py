"""Real guidance: generated images that start from real ones (He et al. 2023, section 3.2 and appendix C.3)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from bridgejax.data import Examples
from bridgejax.data.examples import image_digest
from bridgejax.data.pixels import decode_example
from bridgejax.identity import digest
from bridgejax.synthesis.plan import PlannedImage

# The paper's first step of 100 for so many real images per class, as a share of the steps.
PAPER_STRENGTHS = {16: 0.15, 8: 0.2, 4: 0.35, 2: 0.4, 1: 0.5}


@dataclasses.dataclass(frozen=True)
class RealGuidance:
    """What the images of a set start from: image i of a class from the class's real image i mod their number.

    Attributes:
      shots: the real images; their labels are those of the set.
      strength: share of the sampling steps that are made, in (0, 1]; at 1 next to nothing is left of the real image.
    """

    shots: Examples
    strength: float

    @functools.cached_property
    def identity(self) -> dict[str, str | float]:
        """What decides pixels: the strength, and a digest of the real images in their order."""
        rows = [[int(label), image_digest(self.shots.images, i, True)] for i, label in enumerate(self.shots.labels)]
        return {"strength": self.strength, "shots": digest(rows)}

    def starts(self, items: Sequence[PlannedImage], height: int, width: int) -> npt.NDArray[np.float32]:
        """Returns where planned images start, float32 [n, height, width, 3] in [0, 1]: scaled to cover, cut to the middle."""
        return np.stack([self._pixels(item, (width, height)) for item in items])

    def _pixels(self, item: PlannedImage, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        mine = np.flatnonzero(self.shots.labels == item.label)
        real = Image.fromarray(decode_example(self.shots, int(mine[item.index % len(mine)])))
        return np.asarray(ImageOps.fit(real, size, Image.Resampling.BICUBIC), np.float32) / 255.0


def paper_strength(shots: int | None) -> float:
    """Returns the strength of the paper for so many real images per class; between its counts, that of the next lower one.

    Args:
      shots: at least 1; None is all, which counts as the most.
    """
    most = max(PAPER_STRENGTHS)
    return PAPER_STRENGTHS[max(count for count in PAPER_STRENGTHS if count <= (most if shots is None else shots))]
