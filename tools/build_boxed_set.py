"""Build a small boxed detection set: cut-outs of the photographs of `tux_photos`, pasted on random backgrounds.

Every photograph there lies on white. What is near white and reaches the edge of the photograph is its ground, and the largest
piece of the rest is the cut-out. White that an object encloses stays; white parts that touch the ground are lost with it, and a
photograph that falls apart by this is passed over and named. Backgrounds are random colours with random texture: nothing else
that was photographed enters, and the set is easier than photographs of scenes.

    python tools/build_boxed_set.py --output boxed_set

writes ``boxed_set/PART/annotations.json`` (COCO's format) and ``boxed_set/PART/NNNN.jpg`` for the parts train, validation and
test. No photograph is in two parts, and neither are two that nearly agree (the groups of the task's index.json). The same
arguments give the same set.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

PHOTOS = Path(__file__).resolve().parents[1] / "bridgejax" / "assets" / "tux_photos"
PARTS = {"train": 0.5, "validation": 0.2, "test": 0.3}  # shares of each class's groups of photographs
NEAR_WHITE = 24  # at most so far from 255 in every channel; JPEG's noise around an object is below that
WHOLE = 0.9  # of what is no ground, the share that the largest piece must have
LONGER_SIDE = (0.25, 0.6)  # of a pasted cut-out, in sides of the image
MOST_COVERED = 0.1  # of a box by another one
TRIES = 30  # places for one cut-out
QUALITY = 93


@dataclass(frozen=True)
class CutOut:
    """An object without its ground: uint8 [h, w, 4] tight around it, its class, and its photograph's file."""

    pixels: np.ndarray
    label: str
    file: str


def cut_out(pixels: np.ndarray) -> np.ndarray | None:
    """Returns uint8 [h, w, 4] of a photograph on white, uint8 [h, w, 3], tight around the object; None if it falls apart."""
    white = np.pad((pixels >= 255 - NEAR_WHITE).all(-1), 1, constant_values=True)
    regions, _ = ndimage.label(white)
    # The outermost pixels are mixed with white.
    rest = ndimage.binary_erosion(regions[1:-1, 1:-1] != regions[0, 0], border_value=1)
    pieces, count = ndimage.label(rest, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    if not count or sizes.max() < WHOLE * sizes.sum():
        return None
    shown = pieces == sizes.argmax() + 1
    rows, columns = (np.flatnonzero(shown.any(axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.concatenate([pixels[box], np.uint8(255 * shown[box])[..., None]], -1)


def read_cut_outs(photos: Path) -> tuple[dict[str, dict[int, list[CutOut]]], list[str]]:
    """Returns the cut-outs by class and group, and the files that gave none."""
    found: dict[str, dict[int, list[CutOut]]] = {}
    passed_over = []
    for entry in json.loads((photos / "index.json").read_text(encoding="utf-8"))["images"]:
        cut = cut_out(np.asarray(Image.open(photos / entry["file"]).convert("RGB")))
        if cut is None:
            passed_over.append(entry["file"])
        else:
            groups = found.setdefault(entry["class"], {})
            groups.setdefault(entry["group"], []).append(CutOut(cut, entry["class"], entry["file"]))
    return found, passed_over


def split(cut_outs: dict[str, dict[int, list[CutOut]]], rng: np.random.Generator) -> dict[str, dict[str, list[CutOut]]]:
    """Returns part → class → cut-outs, each part with its share of each class's groups."""
    ends = np.cumsum(list(PARTS.values()))
    parts: dict[str, dict[str, list[CutOut]]] = {part: {} for part in PARTS}
    for label, groups in sorted(cut_outs.items()):
        order = rng.permutation(sorted(groups))
        for part, chosen in zip(PARTS, np.split(order, np.round(ends[:-1] * len(order)).astype(int)), strict=True):
            parts[part][label] = [cut for group in chosen for cut in groups[int(group)]]
            if not parts[part][label]:
                raise SystemExit(f"class {label} has too few photographs for a part {part}")
    return parts


def background(side: int, rng: np.random.Generator) -> np.ndarray:
    """Returns float64 [side, side, 3] in [0, 255]: a random colour with noise of several scales, each of a random strength."""
    out = np.broadcast_to(rng.uniform(30, 225, 3), (side, side, 3))
    for cells in (2, 4, 8, 16, 32, 64):
        noise = Image.fromarray(np.uint8(rng.integers(0, 256, (cells, cells, 3)))).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        grey = rng.uniform() < 0.5
        values = np.asarray(noise, np.float64) - 127.5
        out = out + rng.uniform(0, 0.5) * (values.mean(-1, keepdims=True) if grey else values)
    return np.clip(out, 0, 255)


def compose(
    by_class: dict[str, list[CutOut]], side: int, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[CutOut, list[int]]]]:
    """Returns an image, uint8 [side, side, 3], and of each object in it the cut-out and its box: left, top, width, height."""
    canvas, placed = background(side, rng), []
    labels = sorted(by_class)
    for _ in range(rng.integers(1, most + 1)):
        choices = by_class[labels[rng.integers(len(labels))]]  # each class as often, however many photographs it has
        cut = choices[rng.integers(len(choices))]
        pixels = Image.fromarray(cut.pixels[:, ::-1] if rng.uniform() < 0.5 else cut.pixels)
        scale = side * rng.uniform(*LONGER_SIDE) / max(pixels.size)
        width, height = (max(1, round(scale * length)) for length in pixels.size)
        patch = np.asarray(pixels.resize((width, height), Image.Resampling.LANCZOS), np.float64)
        for _ in range(TRIES):
            left, top = int(rng.integers(0, side - width + 1)), int(rng.integers(0, side - height + 1))
            box = [left, top, width, height]
            if all(covered(box, other) <= MOST_COVERED for _, other in placed):
                place = canvas[top : top + height, left : left + width]
                alpha = patch[..., 3:] / 255
                place[:] = alpha * patch[..., :3] + (1 - alpha) * place
                placed.append((cut, box))
                break
    return np.uint8(np.clip(np.rint(canvas), 0, 255)), placed


def covered(a: list[int], b: list[int]) -> float:
    """Returns the area that two boxes share, in areas of the smaller one."""
    sides = [max(0, min(a[k] + a[k + 2], b[k] + b[k + 2]) - max(a[k], b[k])) for k in (0, 1)]
    return sides[0] * sides[1] / min(a[2] * a[3], b[2] * b[3])


def write_part(
    folder: Path, by_class: dict[str, list[CutOut]], count: int, side: int, most: int, rng: np.random.Generator
) -> dict[str, int]:
    """Writes a part; returns how many boxes each class has."""
    folder.mkdir(parents=True)
    names = sorted(by_class)
    images, annotations = [], []
    for number in range(count):
        pixels, placed = compose(by_class, side, most, rng)
        file = f"{number:04}.jpg"
        Image.fromarray(pixels).save(folder / file, quality=QUALITY, subsampling=0)
        images.append({"id": number, "file_name": file, "width": side, "height": side})
        for cut, box in placed:
            about = {"category_id": names.index(cut.label) + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, **about, "photograph": cut.file})
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    return {name: sum(each["category_id"] == number + 1 for each in annotations) for number, name in enumerate(names)}


def build(
    output: Path, counts: dict[str, int], side: int = 128, most: int = 3, seed: int = 0, photos: Path = PHOTOS
) -> list[str]:
    """Writes the set; returns a line for each part and one for the photographs that gave no cut-out."""
    found, passed_over = read_cut_outs(photos)
    parts = split(found, np.random.default_rng([seed, 0]))
    lines = []
    for number, (part, count) in enumerate(counts.items(), start=1):
        boxes = write_part(output / part, parts[part], count, side, most, np.random.default_rng([seed, number]))
        shown = ", ".join(f"{name} {boxes[name]} ({len(parts[part][name])})" for name in boxes)
        lines.append(f"{part}: {count} images; boxes (photographs): {shown}")
    return [*lines, f"no cut-out: {', '.join(passed_over) or 'none'}"]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the folder to write; not there yet")
    parser.add_argument("--images", type=int, nargs=3, default=(400, 100, 200), metavar="N", help="of train, validation, test")
    parser.add_argument("--side", type=int, default=128, help="of the square images, in pixels")
    parser.add_argument("--objects", type=int, default=3, help="at most so many in an image")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.output.exists():
        raise SystemExit(f"{options.output} exists already; remove it or give another --output")
    counts = dict(zip(PARTS, options.images, strict=True))
    print("\n".join(build(options.output, counts, options.side, options.objects, options.seed)), file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
