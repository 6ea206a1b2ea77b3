"""Training a detector on a folder of boxed images, and its average precision: the transfer to detection of He et al. 2023."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np

from bridgejax.data.boxed_images import BoxedImages, boxed_batches, read_boxed_images
from bridgejax.errors import Diverged, UserError, whole_number
from bridgejax.evaluation import BoxSet, average_precisions
from bridgejax.files import JSONObject, read_json_object, write_json
from bridgejax.identity import derive_seed, folder_digest
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.models import load_classifier
from bridgejax.models.detector import MULTIPLE, Detector, found_boxes, make_detector
from bridgejax.models.registry import classifier_digest
from bridgejax.progress import progress
from bridgejax.training import batches
from bridgejax.training.detection_loss import DetectionLoss
from bridgejax.training.feed import Feed
from bridgejax.training.optimizers import LearningRateSchedule, make_optimizer
from bridgejax.training.option_checks import check_number
from bridgejax.training.state import Arrays, Structure, TrainState
from bridgejax.training.train_step import make_train_step
from bridgejax.workdir import open_workdir

RESULT, FOUND = "detection.json", "found.json"
_CHECK_EVERY = 20  # steps between two looks at the loss
_CLIP_NORM = 10.0


@dataclass(frozen=True)
class DetectionOptions:
    """How a detector is trained: AdamW, a short warm-up, then a cosine down to 0; images are mirrored at random."""

    weights: str = "builtin:efficientnet_lite0"  # of the backbone, as `load_classifier` takes them
    random: bool = False  # start the backbone from new random values instead
    frozen: bool = False  # train the head alone
    steps: int = 500  # updates
    batch_size: int = 16  # images in one
    side: int = 128  # of the images in pixels, a multiple of 32; files are scaled to fit
    learning_rate: float = 0.002  # at its peak
    weight_decay: float = 0.0001  # decoupled
    seed: int = 0  # of the head, of a random backbone, of orders and mirrors

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
          UserError: one is out of range.
        """
        for name, least in (("steps", 1), ("batch_size", 1), ("side", 2 * MULTIPLE), ("seed", 0)):
            whole_number(name, getattr(self, name), least)
        if self.side % MULTIPLE:
            raise UserError(f"side is {self.side}; give a multiple of {MULTIPLE}, the coarsest cell of the network.")
        check_number("learning_rate", self.learning_rate, above_zero=True)
        check_number("weight_decay", self.weight_decay)
        if self.random and self.frozen:
            raise UserError("a random backbone that stays as it is teaches nothing; choose one of random and frozen.")


@dataclass(frozen=True)
class FoundBoxes:
    """What a detector finds in images, k boxes in each, from the best down."""

    corners: np.ndarray  # float32 [n, k, 4] in pixels of the images in memory
    labels: np.ndarray  # int32 [n, k]
    scores: np.ndarray  # float32 [n, k] in [0, 1]; 0 where there is no box


@under_jax_defaults
def train_detector(data: BoxedImages, options: DetectionOptions) -> Detector:
    """Returns a detector that was trained on images with boxes.

    Raises:
      UserError: the weights cannot be the trunk of a detector, or do not load.
      Diverged: the loss is no longer finite.
    """
    # Of one class, since its head is not used: so networks without a head load as well.
    seed = derive_seed(options.seed, "backbone")
    backbone = load_classifier(options.weights, 1, seed, pretrained=not options.random, image_size=options.side)
    model = make_detector(backbone, len(data.categories), derive_seed(options.seed, "head"))
    schedule = LearningRateSchedule.make(
        "cosine", options.learning_rate, total=options.steps, warmup=min(50, options.steps // 10)
    )
    optimizer = make_optimizer("adamw", schedule, weight_decay=options.weight_decay, clip_norm=_CLIP_NORM)
    trainable = ("head",) if options.frozen else ("head", r"^backbone\.(?!head)")
    state = TrainState.create(model, optimizer, options.seed, trainable=trainable)
    step = make_train_step(DetectionLoss(), batch_norm="frozen" if options.frozen else "train")
    stream = boxed_batches(data, options.batch_size, derive_seed(options.seed, "batches"))
    feed = Feed(itertools.islice(stream, options.steps), step.place)
    with progress(options.steps, "train a detector", "step") as bar:
        for number, batch in enumerate(feed, start=1):
            state, metrics = step(state, batch)
            feed.fill(metrics["loss"])
            bar.update(1)
            looks = number % _CHECK_EVERY == 0 or number == options.steps
            if looks and not np.isfinite(float(metrics["loss"])):
                raise Diverged(f"the loss is {metrics['loss']} at step {number}; lower the learning rate.", options.seed)
    trained = state.model
    if not isinstance(trained, Detector):
        raise TypeError(f"a detector became a {type(trained).__name__}")
    trained.eval()
    return trained


@under_jax_defaults
def find_boxes(model: Detector, images: np.ndarray, batch_size: int = 32) -> FoundBoxes:
    """Returns what a detector finds in images, uint8 [n, side, side, 3]; batches have one shape."""
    structure, arrays, _, _ = Structure.of(model)
    parts = []
    for start in range(0, len(images), batch_size):
        rows = images[start : start + batch_size]
        padded = np.pad(rows, ((0, min(batch_size, len(images)) - len(rows)), (0, 0), (0, 0), (0, 0)))
        parts.append([np.asarray(part)[: len(rows)] for part in _find_program()(structure, arrays, padded)])
    return FoundBoxes(*(np.concatenate(part) for part in zip(*parts, strict=True)))


@functools.cache
def _find_program() -> Callable[[Structure, Arrays, np.ndarray], tuple[jax.Array, jax.Array, jax.Array]]:
    def find(structure: Structure, arrays: Arrays, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        model = structure.merge(arrays)
        model.eval()
        return found_boxes(model(batches.normalise(images, model)), images.shape[1])

    return jax.jit(find, static_argnums=0)


def detection_precisions(found: FoundBoxes, data: BoxedImages) -> np.ndarray:
    """Returns each class's average precision at an overlap of one half, float64 [classes], NaN of one without boxes."""
    images, ranks = np.nonzero(found.scores > 0)
    boxes = BoxSet(images, found.labels[images, ranks], found.corners[images, ranks])
    places, numbers = np.nonzero(data.labels >= 0)
    true = BoxSet(places, data.labels[places, numbers], data.boxes[places, numbers])
    difficult = data.difficult[places, numbers]
    return average_precisions(boxes, found.scores[images, ranks], true, len(data.categories), difficult=difficult)


def as_coco_results(found: FoundBoxes, data: BoxedImages) -> list[JSONObject]:
    """Returns found boxes in COCO's format of results, in pixels of the images' files."""
    rows = []
    for image, rank in zip(*np.nonzero(found.scores > 0), strict=True):
        left, top, right, bottom = (found.corners[image, rank] / data.scales[image]).tolist()
        rows.append(
            {
                "image_id": data.image_ids[image],
                "category_id": data.categories[found.labels[image, rank]][0],
                "bbox": [round(x, 2) for x in (left, top, right - left, bottom - top)],
                "score": round(float(found.scores[image, rank]), 5),
            }
        )
    return rows


def detect(folder: Path, workdir: Path, options: DetectionOptions, part: str = "test") -> JSONObject:
    """Trains a detector on FOLDER/train, and scores it on another part; a finished workdir is only read.

    Args:
      folder: with a folder of COCO's format for each part (`read_boxed_images`).
      workdir: gets `detection.json`, which is returned, and `found.json`, the boxes in COCO's format of results.
      options: of the training.
      part: which other part, "test" or "validation".

    Returns:
      "ap50": the mean over classes of the average precision at an overlap above one half, in [0, 1]; "average_precision": that
      of each class, None without boxes; "images" and "boxes" of the part; "settings".

    Raises:
      UserError: as `read_boxed_images` and `train_detector`; the parts have other categories; or the workdir holds other work.
    """
    train, test = (read_boxed_images(folder / name, options.side) for name in ("train", part))
    if train.categories != test.categories:
        raise UserError(f"{folder}: the categories of train and {part} differ; give both the same, with the same ids.")
    settings: JSONObject = {**asdict(options), "command": "detect", "part": part}
    settings["weights_digest"] = classifier_digest(options.weights)
    for name, read in (("train", train), (part, test)):
        settings[f"{name}_digest"] = folder_digest(
            folder / name, (file.relative_to(folder / name).as_posix() for file in read.files)
        )
    with open_workdir(workdir, settings, _differences):
        if (workdir / RESULT).is_file():
            return read_json_object(workdir / RESULT, "remove it and rerun the command")
        found = find_boxes(train_detector(train, options), test.images)
        precisions = detection_precisions(found, test)
        write_json(workdir / FOUND, as_coco_results(found, test))
        named = zip((name for _, name in test.categories), precisions.tolist(), strict=True)
        result: JSONObject = {
            "ap50": float(np.nanmean(precisions)),
            "average_precision": {name: None if np.isnan(value) else value for name, value in named},
            "images": len(test.images),
            "boxes": int(((test.labels >= 0) & ~test.difficult).sum()),
            "settings": settings,
        }
        write_json(workdir / RESULT, result)
    return result


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return [f"{name}: {old.get(name)!r} → {new.get(name)!r}" for name in new if old.get(name) != new.get(name)]
