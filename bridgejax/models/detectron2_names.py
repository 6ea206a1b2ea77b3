"""A ResNet under the names of Detectron2's backbone."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from bridgejax.errors import UserError
from bridgejax.models.classifier import Classifier
from bridgejax.models.resnet import ResNet, layout
from bridgejax.models.weights import export

# torchvision's (and timm's) names → Detectron2's.
_NAMES = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^layer(\d)\.", lambda found: f"res{int(found[1]) + 1}."),
)


def detectron2_tensors(model: Classifier) -> dict[str, np.ndarray]:
    """Returns a ResNet's weights, but for its head, for a detector's `backbone.bottom_up`: float32 in PyTorch's layout.

    Detectron2 must be told `MODEL.RESNETS.STRIDE_IN_1X1 = False`, `INPUT.FORMAT = "RGB"`, and mean and deviation of pixels:
    those of `model.preprocessing` times 255.

    Raises:
      UserError: the model is no ResNet, or one that Detectron2 does not have.
    """
    if not isinstance(model, ResNet) or model.config.early_stride or model.config.first_stride != 1:
        kind = type(model).__name__
        raise UserError(f"Detectron2 has no backbone like this {kind}; give a ResNet, such as timm/resnet50.tv_in1k.")
    tensors = export(model, layout(dataclasses.replace(model.config, layout="timm")).rules)
    return {_name(name): tensor for name, tensor in tensors.items() if not name.startswith("fc.")}


def _name(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name
