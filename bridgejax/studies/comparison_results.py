"""How near the synthetic sets are to the real images: the figures, in `synthetic_set.json` and `synthetic_pairs.npz`."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bridgejax.errors import UserError
from bridgejax.evaluation import FrechetInterval
from bridgejax.files import write_atomic, write_json

if TYPE_CHECKING:
    from bridgejax.evaluation import KernelDistance

COMPARISON_FILE, PAIRS_FILE = "synthetic_set.json", "synthetic_pairs.npz"


@dataclass(frozen=True)
class ClosePair:
    """A synthetic image and its nearest real one: ids, classes, cosine distance of features, distance of pixels in [0, 1]."""

    synthetic: str
    synthetic_class: str
    real: str
    real_class: str
    cosine_distance: float
    pixel_distance: float
    suspected: bool


@dataclass(frozen=True)
class CopyCheck:
    """How many synthetic images are as near to a real one as a copy would be, by features, by pixels, by both."""

    quantile: float  # of the real images' own nearest distances: the thresholds
    threshold: float
    suspected: int
    pixel_threshold: float
    pixel_suspected: int
    both_suspected: int
    closest: tuple[ClosePair, ...]  # the nearest pairs, nearest first


@dataclass(frozen=True)
class Neighbours:
    """A synthetic image and those of its class that are nearest to it."""

    name: str  # of the class
    ids: tuple[str, ...]  # its own, then theirs, nearest first
    distances: tuple[float, ...]  # theirs, cosine distances of features


@dataclass(frozen=True)
class Variety:
    """How alike the images of a class are: medians of the cosine distance to the nearest other image of the class."""

    synthetic: float  # among the synthetic images
    real: float | None  # among the real ones; None where no class has two
    neighbours: tuple[Neighbours, ...]  # of the first image of each class


@dataclass(frozen=True)
class SetFigures:
    """One synthetic set against the real images."""

    name: str  # as stages name the set; "" is the config's own
    # synthetic_images, feature_width: how many of them, and numbers per feature
    synthetic_images: int
    feature_width: int
    # frechet, kernel: distances
    frechet: FrechetInterval
    kernel: KernelDistance
    # precision, recall: in [0, 1], of the k nearest neighbours; None for too few images
    precision: float | None
    recall: float | None
    k: int
    copies: CopyCheck  # see there
    # The Fréchet distance less that of the first set; None for the first one itself.
    frechet_less_first: FrechetInterval | None = None
    variety: Variety | None = None  # None where no class has two images
    captions: Mapping[str, str] = field(default_factory=dict)  # prompt and seed of the images that are shown, by id

    @property
    def shown(self) -> list[str]:
        """The ids of the images that are shown."""
        neighbours = self.variety.neighbours if self.variety is not None else ()
        return [*(pair.synthetic for pair in self.copies.closest), *(name for each in neighbours for name in each.ids)]


@dataclass(frozen=True)
class SetPictures:
    """What is shown of a set."""

    pairs: np.ndarray  # its closest pairs, uint8 [pairs, 2 (synthetic, real), side, side, 3]
    neighbours: np.ndarray  # of `Variety.neighbours` in their order, uint8 [classes, 1 + k, side, side, 3]


@dataclass(frozen=True)
class LeepScore:
    """LEEP of a network on real training images, in nats; `outputs` and `leep` are None for one without a head of its own."""

    network: str
    images: int
    outputs: int | None
    leep: float | None
    leep_matched: float


@dataclass(frozen=True)
class SetComparison:
    """What a config asked about its synthetic sets."""

    classifier: str  # whose features were compared
    shots: int | None  # real images per class of the split, None for all
    against: str | None = None  # the real images: "train" or "test"; None where the sets were not compared
    real_images: int = 0  # how many
    sets: tuple[SetFigures, ...] = ()  # a set each
    leep: tuple[LeepScore, ...] = ()  # a network each; empty where that was not asked

    def to_dict(self) -> dict[str, object]:
        """Returns the comparison as plain data; what was not asked is not in it."""
        plain: dict[str, object] = {"classifier": self.classifier, "shots": self.shots}
        if self.against is not None:
            plain |= {"against": self.against, "real_images": self.real_images, "sets": [_set_to_dict(s) for s in self.sets]}
        return {**plain, "leep": [asdict(score) for score in self.leep]} if self.leep else plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> SetComparison:
        """Reads what `to_dict` gave.

        Raises:
          KeyError, TypeError: it is something else.
        """
        return cls(
            plain["classifier"],
            plain["shots"],
            plain.get("against"),
            plain.get("real_images", 0),
            tuple(_set_from_dict(figures) for figures in plain.get("sets") or ()),
            tuple(LeepScore(**score) for score in plain.get("leep") or ()),
        )


def _set_to_dict(figures: SetFigures) -> dict[str, Any]:
    plain = asdict(figures)
    for row in plain["copies"]["closest"]:
        row["class"] = row.pop("synthetic_class")
    for name in ("frechet_less_first", "variety"):
        if plain[name] is None:
            del plain[name]
    return plain


def _set_from_dict(plain: Mapping[str, Any]) -> SetFigures:
    from bridgejax.evaluation import KernelDistance  # brings JAX along

    copies, less, variety = plain["copies"], plain.get("frechet_less_first"), plain.get("variety")
    rows = [{("synthetic_class" if key == "class" else key): row[key] for key in row} for row in copies["closest"]]
    return SetFigures(
        **{
            **plain,
            "frechet": FrechetInterval(**plain["frechet"]),
            "kernel": KernelDistance(**plain["kernel"]),
            "copies": CopyCheck(**{**copies, "closest": tuple(ClosePair(**row) for row in rows)}),
            "frechet_less_first": None if less is None else FrechetInterval(**less),
            "variety": None if variety is None else _variety_from_dict(variety),
        }
    )


def _variety_from_dict(plain: Mapping[str, Any]) -> Variety:
    neighbours = (Neighbours(row["name"], tuple(row["ids"]), tuple(row["distances"])) for row in plain["neighbours"])
    return Variety(plain["synthetic"], plain["real"], tuple(neighbours))


def write_comparison_files(workdir: Path, identity: str, comparison: SetComparison, pictures: Sequence[SetPictures]) -> None:
    """Keeps a comparison, and the pictures of each set, in the workdir; `identity` is a digest of what decides them."""
    if pictures:
        buffer = io.BytesIO()
        arrays = {f"pairs{number}": each.pairs for number, each in enumerate(pictures)}
        arrays |= {f"neighbours{number}": each.neighbours for number, each in enumerate(pictures)}
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_atomic(workdir / PAIRS_FILE, buffer.getvalue())
    write_json(workdir / COMPARISON_FILE, {"identity": identity, **comparison.to_dict()})


def comparison_identity(workdir: Path) -> str | None:
    """Returns the identity of the figures that a workdir holds, None if it holds none."""
    return _stored(workdir).get("identity")


def read_comparison(workdir: Path) -> tuple[SetComparison | None, list[SetPictures]]:
    """Returns the figures that a workdir holds, None if it holds none, and each set's pictures.

    Raises:
      UserError: a file is damaged.
    """
    file, pairs_file = workdir / COMPARISON_FILE, workdir / PAIRS_FILE
    if not file.is_file():
        return None, []
    try:
        comparison = SetComparison.from_dict(_stored(workdir))
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} does not hold the figures of a comparison; delete it and run the study again.") from error
    pictures = []
    try:
        if pairs_file.is_file():
            with np.load(pairs_file, allow_pickle=False) as stored:
                for number in range(len(comparison.sets)):
                    pairs = stored[f"pairs{number}"]
                    # A comparison of an earlier version has no neighbours.
                    near = stored[f"neighbours{number}"] if f"neighbours{number}" in stored else pairs[:0]
                    pictures.append(SetPictures(pairs, near))
        if any(array.dtype != np.uint8 or array.ndim != 5 for each in pictures for array in (each.pairs, each.neighbours)):
            raise ValueError("not pictures")
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{pairs_file} is damaged; delete it and {COMPARISON_FILE} and run the study again.") from error
    return comparison, pictures


def _stored(workdir: Path) -> dict[str, Any]:
    try:
        content = json.loads((workdir / COMPARISON_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
