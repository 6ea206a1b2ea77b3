"""The detector's maps on each backbone, and boxes read from what its cells say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models import load_classifier
from bridgejax.models.detector import cell_boxes, cell_centres, found_boxes, levels, make_detector
from bridgejax.models.registry import abstract_classifier
from tests.small_backbones import write_backbone, write_config

KINDS = ("timm resnet", "transformers resnet", "builtin:efficientnet_lite0")


@pytest.mark.parametrize("kind", KINDS)
def test_cells_lie_an_eighth_of_the_side_apart(kind, tmp_path):
    backbone = abstract_classifier(kind if kind.startswith("builtin") else write_config(kind, tmp_path))
    maps = nnx.eval_shape(levels, backbone, jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.float32))
    sides = [24, 12, 6] if kind == "transformers resnet" else [12, 6, 3]  # that one has three stages
    assert [each.shape[1] for each in maps] == sides
    model = make_detector(backbone, 5)
    out = nnx.eval_shape(lambda net, images: net(images), model, jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.float32))
    assert out.shape == (2, sides[0] ** 2, 9)


def test_the_maps_are_what_the_classifier_pools(tmp_path):
    model = load_classifier(write_backbone("timm resnet", tmp_path))
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    both = nnx.jit(lambda net, images: (levels(net, images)[-1].mean((1, 2)), net.features(images)))
    np.testing.assert_allclose(*both(model, images), rtol=1e-5, atol=1e-6)


def test_another_network_is_refused(tmp_path):
    with pytest.raises(UserError, match="a VisionTransformer cannot be the trunk of a detector"):
        make_detector(abstract_classifier(write_config("timm vit", tmp_path)), 2)


def test_boxes_are_read_from_cells():
    side, outputs = 32, np.full((1, 16, 6), -9.0, np.float32)  # cells of 8 pixels, two classes
    outputs[..., 2:] = 0
    np.testing.assert_allclose(cell_centres(16, side)[6], [20, 12])
    np.testing.assert_allclose(cell_boxes(outputs, side)[0, 6], [4, -4, 36, 28])
    outputs[0, 6] = [3, -9, 0.5, -0.5, np.log(0.25), np.log(0.5)]  # 8 by 16 around (24, 8)
    outputs[0, 7] = [2, -9, -0.5, -0.5, np.log(0.25), np.log(0.5)]  # the same box again
    outputs[0, 10] = [-9, 1, 0, 0, np.log(2), 9]  # wider than the image
    corners, labels, scores = found_boxes(outputs, side, most=4)
    assert corners.shape == (1, 4, 4)
    np.testing.assert_allclose(corners[0, 0], [20, 0, 28, 16], atol=1e-5)
    np.testing.assert_allclose(corners[0, 2], [0, 0, 32, 32])
    assert labels[0, :3].tolist() == [0, 0, 1]
    np.testing.assert_allclose(scores[0, :3], [1 / (1 + np.exp(-3)), 0, 1 / (1 + np.exp(-1))], rtol=1e-5)
