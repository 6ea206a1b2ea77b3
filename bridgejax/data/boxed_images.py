"""Images with boxes, read from folders of COCO's format into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from bridgejax.data.images import BadImage, decode_rgb
from bridgejax.errors import UserError
from bridgejax.files import JSONObject, read_json_object
from bridgejax.identity import derive_seed

ANNOTATIONS = "annotations.json"
_GROUND = 127  # beside an image that is not square
_OVERSHOOT = 1.0  # pixels by which a box may leave its image: annotation tools round


@dataclass(frozen=True)
class BoxedImages:
    """Images of one size with their boxes; n images, at most m boxes in one."""

    categories: tuple[tuple[int, str], ...]  # (id, name) of the classes, in the order of labels
    image_ids: tuple[int, ...]  # the file's number of each image
    images: npt.NDArray[np.uint8]  # uint8 [n, side, side, 3]; each was scaled to fit, and lies in the top left corner on grey
    scales: npt.NDArray[np.float64]  # float64 [n], the images' pixels per pixel of their files
    # float32 [n, m, 4]: left, top, right, bottom in pixels of `images`; zeros where an image has fewer.
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]  # int32 [n, m], -1 where an image has fewer
    difficult: npt.NDArray[np.bool_]  # bool [n, m], a crowd (`iscrowd`), which neither trains nor counts
    files: tuple[Path, ...]  # what was read


def read_boxed_images(folder: Path, side: int) -> BoxedImages:
    """Reads a folder with `annotations.json` in COCO's format and the images that it names.

    Args:
      folder: file names are relative to it.
      side: of the images in memory, in pixels.

    Raises:
      UserError: a file is missing or damaged, there are no boxes, or a box is not within its image or names an image or a
        category that is not listed.
    """
    path = folder / ANNOTATIONS
    content = read_json_object(path, f"give a folder with {ANNOTATIONS} in COCO's format")
    rows = {key: _objects(content, key, path) for key in ("images", "annotations", "categories")}
    if not rows["annotations"]:
        raise UserError(f"{path} holds no boxes (`annotations` is empty); a detector needs images with annotated boxes.")
    categories = _by_id(rows["categories"], "name", "categories", path)
    names = _by_id(rows["images"], "file_name", "images", path)
    sizes, images = [], np.full((len(names), side, side, 3), _GROUND, np.uint8)
    files = [folder / name for name in names.values()]
    for number, file in enumerate(files):
        pixels = _decoded(file)
        sizes.append((pixels.shape[1], pixels.shape[0]))
        fitted = _fitted(pixels, side)
        images[number, : fitted.shape[0], : fitted.shape[1]] = fitted
    said = {row["id"]: (row.get("width"), row.get("height")) for row in rows["images"]}
    for image, file, size in zip(names, files, sizes, strict=True):
        if any(given not in (None, real) for given, real in zip(said[image], size, strict=True)):
            raise UserError(f"{file} has {size[0]} × {size[1]} pixels, but {path} says {said[image]}; correct one of them.")
    scales = np.asarray([side / max(size) for size in sizes])
    places, labels = {image: k for k, image in enumerate(names)}, {category: k for k, category in enumerate(categories)}
    found: list[list[tuple[npt.NDArray[np.float64], int, bool]]] = [[] for _ in files]
    for row in rows["annotations"]:
        where = f"{path}: box {row.get('id')!r}"
        for key, known in (("image_id", places), ("category_id", labels)):
            if not isinstance(row.get(key), int) or row[key] not in known:
                listing = "images" if key == "image_id" else "categories"
                raise UserError(
                    f"{where} names {key} {row.get(key)!r}, which `{listing}` does not list; add it, or remove the box."
                )
        place = places[row["image_id"]]
        corners = scales[place] * _corners(row.get("bbox"), sizes[place], where)
        found[place].append((corners, labels[row["category_id"]], bool(row.get("iscrowd"))))
    most = max(map(len, found))
    made = BoxedImages(
        tuple(categories.items()),
        tuple(names),
        images,
        scales,
        np.zeros((len(files), most, 4), np.float32),
        np.full((len(files), most), -1, np.int32),
        np.zeros((len(files), most), bool),
        (path, *files),
    )
    for k, boxes in enumerate(found):
        for j, box in enumerate(boxes):
            made.boxes[k, j], made.labels[k, j], made.difficult[k, j] = box
    return made


def boxed_batches(data: BoxedImages, batch_size: int, seed: int) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields batches without end, each a function of (data, seed, its number): "image", "boxes" and "box_label".

    Every pass takes the images in a new order; each is mirrored or not by a fair coin.
    """
    count, side = len(data.images), data.images.shape[1]
    labels = np.where(data.difficult, -1, data.labels)
    orders: dict[int, np.ndarray] = {}
    start = 0
    while True:
        rows = []
        for place in range(start, start + batch_size):
            epoch = place // count
            if epoch not in orders:
                orders = {epoch: np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(count)}
            rows.append(orders[epoch][place % count])
        mirrored = np.random.default_rng(derive_seed(seed, "mirror", start)).random(batch_size) < 0.5
        images, boxes = data.images[rows], data.boxes[rows]
        images[mirrored] = images[mirrored, :, ::-1]
        boxes[mirrored] = np.stack([side - boxes[..., 2], boxes[..., 1], side - boxes[..., 0], boxes[..., 3]], -1)[mirrored]
        yield {"image": images, "boxes": boxes, "box_label": labels[rows]}
        start += batch_size


def _objects(content: JSONObject, key: str, path: Path) -> list[JSONObject]:
    rows = content.get(key)
    if not isinstance(rows, list) or any(not isinstance(row, dict) for row in rows):
        raise UserError(f"{path} has no list of objects `{key}`; give annotations in COCO's format.")
    return rows


def _by_id(rows: list[JSONObject], key: str, listing: str, path: Path) -> dict[int, str]:
    """Returns id → name of categories or images, in order."""
    found: dict[int, str] = {}
    for row in rows:
        number, name = row.get("id"), row.get(key)
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(name, str) or number in found:
            raise UserError(
                f"{path}: `{listing}` needs a whole number of its own as id and a {key} in each entry; see {row!r:.80}."
            )
        found[number] = name
    if not found:
        raise UserError(f"{path}: `{listing}` is empty; a detector needs images with annotated boxes of named categories.")
    return found


def _decoded(file: Path) -> npt.NDArray[np.uint8]:
    try:
        return decode_rgb(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}, which {ANNOTATIONS} names, cannot be read ({error.strerror}); restore it.") from error
    except BadImage as error:
        raise UserError(f"{file} {error}; convert, replace or remove the file.") from error


def _fitted(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    if max(height, width) == side:
        return pixels
    scale = side / max(height, width)
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _corners(box: object, size: tuple[int, int], where: str) -> npt.NDArray[np.float64]:
    """Returns left, top, right, bottom of COCO's left, top, width, height, within an image of a size (width, height)."""
    if not isinstance(box, list) or len(box) != 4 or any(isinstance(x, bool) or not isinstance(x, int | float) for x in box):
        raise UserError(f"{where} has bbox {box!r}; give left, top, width and height in pixels.")
    left, top, width, height = map(float, box)
    if not (math.isfinite(sum(map(abs, box))) and width > 0 and height > 0):
        raise UserError(f"{where} has bbox {box!r}; width and height must be above 0, and all four finite.")
    corners = np.asarray([left, top, left + width, top + height])
    limits = np.asarray([*size, *size], np.float64)
    inside = np.clip(corners, 0, limits)
    if (np.abs(corners - inside) > _OVERSHOOT).any():
        raise UserError(f"{where} has bbox {box!r}, which leaves its image of {size[0]} × {size[1]} pixels; correct it.")
    return inside
