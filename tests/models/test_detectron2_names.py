"""A ResNet under the names of Detectron2's backbone."""

from __future__ import annotations

import numpy as np
import pytest
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models import detectron2_tensors
from bridgejax.models.classifier import Preprocessing
from bridgejax.models.resnet import ResNet, ResNetConfig

LOOKS = Preprocessing(32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 1.0)


def network(**changes):
    config = {"layout": "timm", "name": "resnet50", "depths": (1, 2), "widths": (8, 16), "stem": 4, "bottleneck": True}
    return nnx.jit(lambda: ResNet(ResNetConfig(**config | changes), 3, LOOKS, rngs=nnx.Rngs(0)))()


def test_names_are_those_of_detectron2():
    model = network()
    tensors = detectron2_tensors(model)
    norm = ("weight", "bias", "running_mean", "running_var")
    blocks = {"res2.0": ("conv1", "conv2", "conv3", "shortcut"), "res3.0": ("conv1", "conv2", "conv3", "shortcut")}
    blocks |= {"res3.1": ("conv1", "conv2", "conv3"), "stem": ("conv1",)}
    places = [f"{block}.{part}" for block, parts in blocks.items() for part in parts]
    assert set(tensors) == {f"{place}.{name}" for place in places for name in ("weight", *(f"norm.{part}" for part in norm))}
    kernel = np.asarray(model.blocks[2].conv2.kernel[...])
    np.testing.assert_array_equal(tensors["res3.1.conv2.weight"], kernel.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(tensors["res2.0.shortcut.norm.weight"], model.blocks[0].shortcut_bn.scale[...])


def test_what_detectron2_does_not_have_is_refused():
    with pytest.raises(UserError, match="Detectron2 has no backbone like this ResNet"):
        detectron2_tensors(network(early_stride=True))
