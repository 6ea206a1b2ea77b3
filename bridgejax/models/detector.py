"""A compact anchor-free detector: a classifier's trunk, a short top-down path, and one map of cells that name boxes.

A cell gives a score for each class, and the middle and the size of a box (FCOS, Tian et al. 2019, arXiv 1904.01355; CenterNet,
Zhou et al. 2019, arXiv 1904.07850). There is one level, an eighth of the image's side: simple, and enough for boxes that are
not much smaller than its cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.batch_norm import BatchNorm
from bridgejax.models.boxes import best_boxes
from bridgejax.models.classifier import Classifier
from bridgejax.models.efficientnet_lite import EfficientNetLite
from bridgejax.models.layers import Conv2d, GroupNorm, upsample_nearest
from bridgejax.models.resnet import BATCH_NORM_MOMENTUM, ResNet

LEVELS = 3  # strides 8, 16 and 32
MULTIPLE = 32  # of the images' sides
_GROUPS = 8
_RARE = 0.01  # a cell's score at the start (Lin et al. 2017, arXiv 1708.02002, section 3.3)
_USUAL_SIZE = 4.0  # of a box at the start, in cells
_LARGEST_EXPONENT = 5.0


def levels(trunk: ResNet | EfficientNetLite, images: jax.Array) -> list[jax.Array]:
    """Returns the last feature maps of the last `LEVELS` sizes that a trunk has, the finest first: float [n, h, w, c] each."""
    x = trunk.stem(images)
    found = []
    for block in trunk.blocks:
        y = block(x)
        if y.shape[1] < x.shape[1]:
            found.append(x)
        x = y
    return [*found, x][-LEVELS:]


class DetectionHead(nnx.Module):
    """Sums the levels, whose `channels` are given finest first, from the coarsest down; maps each cell to scores and a box."""

    def __init__(self, channels: Sequence[int], classes: int, width: int = 96, *, rngs: nnx.Rngs) -> None:
        self.lateral = nnx.List([Conv2d(each, width, 1, rngs=rngs) for each in channels])
        self.convs = nnx.List([Conv2d(width, width, use_bias=False, rngs=rngs) for _ in range(2)])
        self.norms = nnx.List([GroupNorm(_GROUPS, width, rngs=rngs) for _ in range(2)])
        self.out = Conv2d(width, classes + 4, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)
        rare = jnp.where(jnp.arange(classes + 4) < classes, math.log(_RARE / (1 - _RARE)), 0.0)
        self.out.bias = nnx.Param(rare)

    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        """Maps the levels [n, h, w, c] to [n, cells, classes + 4], cells row by row."""
        *finer, x = (lateral(each) for lateral, each in zip(self.lateral, maps, strict=True))
        for each in reversed(finer):
            x = each + upsample_nearest(x, each.shape[1], each.shape[2])
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x)))
        out: jax.Array = self.out(x).astype(jnp.float32)
        return out.reshape(out.shape[0], -1, out.shape[-1])


class Detector(nnx.Module):
    """A trunk and a `DetectionHead`; see `make_detector`.

    Attributes:
      backbone: the classifier whose layers before the pooling are the trunk.
      head: what "head" means where parts of a network are named.
      num_classes: how many classes.
      preprocessing: what images must be.
    """

    def __init__(self, backbone: ResNet | EfficientNetLite, num_classes: int, *, rngs: nnx.Rngs) -> None:
        image = jnp.zeros((1, 2 * MULTIPLE, 2 * MULTIPLE, 3), jnp.float32)
        channels = [each.shape[-1] for each in nnx.eval_shape(levels, backbone, image)]
        self.backbone = backbone
        self.head = DetectionHead(channels, num_classes, rngs=rngs)
        self.num_classes = num_classes
        self.preprocessing = backbone.preprocessing

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns what each cell says, float32 [n, cells, classes + 4]: logits of the classes, then the box (`cell_boxes`).

        Args:
          images: float [n, side, side, 3], normalised; the side is a multiple of 32, and cells are 8 pixels apart.
        """
        return self.head(levels(self.backbone, images))


def make_detector(backbone: Classifier, num_classes: int, seed: int = 0) -> Detector:
    """Returns a detector with a new head.

    Args:
      backbone: a ResNet or an EfficientNet-Lite0, which becomes part of the detector; its batch norms' running statistics then
        move at least as fast as PyTorch's.
      num_classes: at least 1.
      seed: of the head.

    Raises:
      UserError: the network has no maps to find boxes in.
    """
    if not isinstance(backbone, ResNet | EfficientNetLite):
        raise UserError(
            f"a {type(backbone).__name__} cannot be the trunk of a detector here; give a ResNet or an EfficientNet-Lite0."
        )
    for _, module in nnx.iter_modules(backbone):
        if isinstance(module, BatchNorm):  # EfficientNet's own 0.99 would lag behind the weights for hundreds of steps
            module.momentum = min(module.momentum, BATCH_NORM_MOMENTUM)
    return Detector(backbone, num_classes, rngs=nnx.Rngs(seed))


def cell_centres(cells: int, side: int) -> jax.Array:
    """Returns x and y of the centres of a square map's cells, float32 [cells, 2], in pixels of the image.

    Raises:
      ValueError: so many cells are no square.
    """
    count = math.isqrt(cells)
    if count * count != cells:
        raise ValueError(f"{cells} cells are not the map of a square image")
    middles = (np.arange(count, dtype=np.float32) + 0.5) * (side / count)
    x, y = np.meshgrid(middles, middles)
    return jnp.asarray(np.stack([x.ravel(), y.ravel()], -1))


def cell_boxes(outputs: jax.Array, side: int) -> jax.Array:
    """Returns the corners of each cell's box, float32 [n, cells, 4] in pixels, of outputs [n, cells, classes + 4].

    The last four outputs are the box's middle, from the cell's centre and in cells, and the logarithm of its size, in four
    cells; above e⁵ of them, sizes stay and have no gradient.
    """
    cell = side / math.isqrt(outputs.shape[1])
    middle = cell_centres(outputs.shape[1], side) + cell * outputs[..., -4:-2]
    half = 0.5 * _USUAL_SIZE * cell * jnp.exp(jnp.minimum(outputs[..., -2:], _LARGEST_EXPONENT))
    return jnp.concatenate([middle - half, middle + half], -1)


def found_boxes(
    outputs: jax.Array, side: int, *, most: int = 50, overlap: float = 0.5
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the best boxes of each image, from the best down: corners float32 [n, k, 4] within the image, labels int32 [n, k]
    and scores float32 [n, k] in [0, 1], where a score of 0 says that there is no box.

    Args:
      outputs: float [n, cells, classes + 4], of a `Detector`.
      side: of the square images in pixels.
      most: k, unless the cells give fewer boxes.
      overlap: how much boxes of one class may overlap (`bridgejax.models.boxes.best_boxes`).
    """
    classes = outputs.shape[-1] - 4
    scores = jax.nn.sigmoid(outputs[..., :classes]).reshape(outputs.shape[0], -1)
    scores, places = jax.lax.top_k(scores, min(most, scores.shape[1]))
    corners = jnp.clip(cell_boxes(outputs, side), 0.0, side)
    corners = jnp.take_along_axis(corners, (places // classes)[..., None], axis=1)
    labels = (places % classes).astype(jnp.int32)
    stays = jax.vmap(best_boxes, (0, 0, None))(corners, labels, overlap)
    return corners, labels, jnp.where(stays, scores, 0.0)
