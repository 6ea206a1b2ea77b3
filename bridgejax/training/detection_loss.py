"""What the training of a detector minimises: focal loss of each cell's scores, and generalised overlap of its box."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.boxes import generalised_overlap
from bridgejax.models.detector import Detector, cell_boxes, cell_centres
from bridgejax.training.objectives.base import Mix, NamedArrays, Objective, ObjectiveState
from bridgejax.training.option_checks import check_number

NO_BOX = -1  # the label of what fills up an image's boxes
_RADIUS = 1.5  # cells


def boxes_of_cells(centres: jax.Array, cell: float, corners: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns which box each cell is to find, int32 [cells]: its number, or `NO_BOX`.

    A cell finds a box if its centre lies inside and at most 1.5 cells from the box's middle on either axis (FCOS's centre
    sampling), or if it is the cell with that middle; of several boxes, the smallest.

    Args:
      centres: of the cells, float [cells, 2] in pixels.
      cell: side of a cell in pixels.
      corners: of the boxes, float [m, 4].
      labels: int [m], `NO_BOX` where there is no box.
    """
    low, high = corners[:, :2], corners[:, 2:]
    away = jnp.abs(centres[:, None] - (low + high) / 2)
    inside = ((centres[:, None] > low) & (centres[:, None] < high)).all(-1)
    finds = (inside & (away <= _RADIUS * cell).all(-1)) | (away <= cell / 2).all(-1)
    areas = jnp.where(finds & (labels != NO_BOX), jnp.prod(high - low, -1), jnp.inf)
    return jnp.where(jnp.isfinite(areas.min(-1)), areas.argmin(-1), NO_BOX).astype(jnp.int32)


def focal_loss(logits: jax.Array, targets: jax.Array, alpha: jax.Array | float, gamma: jax.Array | float) -> jax.Array:
    """Returns -α_t (1 - p_t)^γ log p_t in nats, in the shape of `logits` (Lin et al. 2017, arXiv 1708.02002, eq. 5).

    p_t is sigmoid(logit) where the target is 1, and its rest to 1 where it is 0; α_t likewise α and 1 - α.
    """
    signed = jnp.where(targets > 0, logits, -logits)
    weight = jnp.where(targets > 0, alpha, 1.0 - alpha)
    return -weight * jax.nn.sigmoid(-signed) ** gamma * jax.nn.log_sigmoid(signed)


def detection_losses(
    outputs: jax.Array, side: int, corners: jax.Array, labels: jax.Array, options: DetectionLoss
) -> tuple[jax.Array, jax.Array]:
    """Returns the loss of one image's scores and of its boxes, float32 scalars; both are sums over cells, divided by the number
    of cells that find a box (at least 1).

    Args:
      outputs: float [cells, classes + 4], of a `Detector`.
      side: of the image in pixels.
      corners, labels: of its boxes, float [m, 4] in pixels and int [m], as `boxes_of_cells` takes them.
      options: the weights.
    """
    classes, cells = outputs.shape[-1] - 4, outputs.shape[0]
    box = boxes_of_cells(cell_centres(cells, side), side / math.isqrt(cells), corners, labels)
    finds = box != NO_BOX
    targets = jax.nn.one_hot(jnp.where(finds, labels[box], NO_BOX), classes)
    scores = focal_loss(outputs[:, :classes], targets, options.alpha, options.gamma).sum()
    missed = 1.0 - generalised_overlap(cell_boxes(outputs[None], side)[0], corners[box])
    count = jnp.maximum(finds.sum(), 1)
    return scores / count, jnp.where(finds, missed, 0.0).sum() / count


@dataclasses.dataclass(frozen=True)
class DetectionLoss(Objective):
    """Focal loss + `box_weight` · (1 - GIoU), of `detection_losses`.

    Batches hold "boxes" (float [n, m, 4]: left, top, right, bottom in pixels of the square images) and "box_label" (int [n, m],
    -1 where an image has fewer boxes).
    """

    required = ("image", "boxes", "box_label")
    alpha: float = 0.25  # in [0, 1], the weight of a score that should be 1
    gamma: float = 2.0  # at least 0; scores that are nearly right weigh less
    box_weight: float = 2.0  # at least 0

    def check(self) -> None:
        check_number("alpha", self.alpha, most=1)
        check_number("gamma", self.gamma)
        check_number("box_weight", self.box_weight)

    def outputs(
        self, model: nnx.Module, images: jax.Array, batch: NamedArrays, state: ObjectiveState, companion: nnx.Module | None
    ) -> jax.Array:
        """Returns what each cell says, float32 [n, cells, classes + 4]."""
        if not isinstance(model, Detector):
            raise UserError(f"a {type(model).__name__} finds no boxes; make the model with make_detector.")
        return model(images)

    def losses(self, outputs: jax.Array, batch: NamedArrays, mix: Mix, state: ObjectiveState) -> jax.Array:
        scores, boxes = self._parts(outputs, batch)
        return scores + self.box_weight * boxes

    def metrics(self, outputs: jax.Array, batch: NamedArrays, state: ObjectiveState) -> dict[str, jax.Array]:
        """Returns the means of the loss's two parts, "score_loss" and "box_loss"."""
        scores, boxes = self._parts(outputs, batch)
        return {"score_loss": scores.mean(), "box_loss": boxes.mean()}

    def _parts(self, outputs: jax.Array, batch: NamedArrays) -> tuple[jax.Array, jax.Array]:
        side = batch["image"].shape[1]
        return jax.vmap(lambda *row: detection_losses(row[0], side, row[1], row[2], self))(
            outputs, batch["boxes"], batch["box_label"]
        )
