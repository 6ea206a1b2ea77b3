"""What filters kept of the synthetic sets: figures and pictures by class, in `filter.json` and `filter_images.npz`."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError
from bridgejax.files import write_atomic, write_json

FILTER_FILE, PICTURES_FILE = "filter.json", "filter_images.npz"
KEPT, DROPPED = "kept", "dropped"


@dataclass(frozen=True)
class ClassSelection:
    """What is kept of a class; `highest`, `median` and `lowest` are of what the first rule goes by, over all its images."""

    name: str
    images: int
    kept: int
    highest: float
    median: float
    lowest: float


@dataclass(frozen=True)
class SetSelection:
    """What rules keep of a synthetic set."""

    name: str  # the set's, as stages name it; "" is the config's own
    arms: tuple[str, ...]  # whose stages train on what is kept; none of `bridgejax filter`
    rules: tuple[str, ...]  # in order, with their numbers
    judge: str  # the network whose probabilities or features the first rule goes by
    meaning: str  # what the first rule goes by, in words
    shots: int | None  # real images per class of the split, None for all
    classes: tuple[ClassSelection, ...]  # a class each, by label

    @property
    def images(self) -> int:
        return sum(each.images for each in self.classes)

    @property
    def kept(self) -> int:
        return sum(each.kept for each in self.classes)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> SetSelection:
        """Reads what `dataclasses.asdict` gave.

        Raises:
          KeyError, TypeError: it is something else.
        """
        classes = tuple(ClassSelection(**each) for each in plain["classes"])
        return cls(**{**plain, "arms": tuple(plain["arms"]), "rules": tuple(plain["rules"]), "classes": classes})


@dataclass(frozen=True)
class SelectionPictures:
    """Pictures of a selection, by class: those liked best of the kept ones, and least of the dropped ones."""

    # kept, dropped: uint8 [classes, k, side, side, 3]; white where there are fewer
    kept: npt.NDArray[np.uint8]
    dropped: npt.NDArray[np.uint8]


def write_selections(workdir: Path, selections: Sequence[SetSelection], pictures: Sequence[SelectionPictures]) -> None:
    """Writes both files; the figures last."""
    arrays = {f"{kind}_{i}": getattr(each, kind) for i, each in enumerate(pictures) for kind in (KEPT, DROPPED)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomic(workdir / PICTURES_FILE, buffer.getvalue())
    write_json(workdir / FILTER_FILE, {"selections": [asdict(each) for each in selections]})


def read_selections(workdir: Path) -> tuple[list[SetSelection], list[SelectionPictures]]:
    """Returns what a workdir holds of filters; nothing where no stage has one.

    Raises:
      UserError: a file is damaged.
    """
    file = workdir / FILTER_FILE
    if not file.is_file():
        return [], []
    try:
        found = [SetSelection.from_dict(each) for each in json.loads(file.read_text(encoding="utf-8"))["selections"]]
        with np.load(workdir / PICTURES_FILE, allow_pickle=False) as stored:
            pictures = [SelectionPictures(stored[f"{KEPT}_{i}"], stored[f"{DROPPED}_{i}"]) for i in range(len(found))]
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file} or {PICTURES_FILE} beside it is damaged; delete both and run the study again to rebuild them."
        ) from error
    return found, pictures
