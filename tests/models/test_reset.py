"""New heads, new last blocks and whole new networks."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models import load_classifier, reinitialise, reset_blocks, reset_head


def _arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))}


def _changed(model: nnx.Module, other: nnx.Module) -> set[str]:
    """The modules whose arrays differ: "blocks.3", "head", …"""
    before, after = _arrays(model), _arrays(other)
    assert before.keys() == after.keys()
    names = {name for name in before if before[name].shape != after[name].shape or (before[name] != after[name]).any()}
    return {".".join(name.split(".")[: 2 if name.startswith("blocks") else 1]) for name in names}


def test_the_last_blocks_and_all_behind_them_start_anew_and_nothing_before() -> None:
    model = load_classifier("builtin:efficientnet_lite0")
    blocks = len(model.blocks)
    assert blocks == 16
    new = reset_blocks(nnx.clone(model), 2, jax.random.key(3), num_classes=7)
    assert _changed(model, new) == {"blocks.14", "blocks.15", "conv_head", "bn1", "head"}
    assert (new.num_classes, new.head.kernel[...].shape) == (7, (1280, 7))
    norm = new.blocks[15].bn1
    assert all((np.asarray(norm.scale[...]) == 1).all() and (np.asarray(x[...]) == 0).all() for x in (norm.bias, norm.mean))
    # A depthwise kernel's variance is 2 / k², a dense one's 2 / (k² · out); sampling error of n values is about √(2 / n).
    kernels = (new.blocks[15].depthwise_conv.kernel[...], new.conv_head.kernel[...])
    for kernel, variance in zip(kernels, (2 / 9, 2 / 1280), strict=True):
        assert abs(float(kernel.var()) / variance - 1) < 5 * np.sqrt(2 / kernel.size)


def test_no_block_is_the_head_alone_and_a_blocks_values_depend_on_key_and_place_alone() -> None:
    model = load_classifier("builtin:efficientnet_lite0")
    assert _changed(reset_blocks(nnx.clone(model), 0, 5), reset_head(nnx.clone(model), 5)) == set()
    one, three, again, other = (reset_blocks(nnx.clone(model), count, key) for count, key in ((1, 5), (3, 5), (3, 5), (3, 6)))
    assert _changed(three, again) == set()
    assert _changed(one, three) == {"blocks.13", "blocks.14"}
    assert "blocks.15" in _changed(three, other)


def test_a_whole_new_network_keeps_nothing_and_goes_on_training_from_the_same_structure() -> None:
    model = load_classifier("builtin:efficientnet_lite0", num_classes=3)
    new = reinitialise(nnx.clone(model), 1)
    assert nnx.graphdef(new) == nnx.graphdef(model)
    before, after = _arrays(model), _arrays(new)
    assert [name for name in before if (before[name] == after[name]).all()] == []
    assert all(np.isfinite(array).all() for array in after.values())
    # Reset blocks are those of the new network: both draw a parameter from the key and its place.
    assert _changed(new, reset_blocks(nnx.clone(new), 4, 1)) == set()


@pytest.mark.parametrize("count", [-1, 17, 1.5, True, "2"])
def test_a_wrong_number_of_blocks_is_told(count: object) -> None:
    model = load_classifier("builtin:efficientnet_lite0")
    with pytest.raises(UserError, match="efficientnet_lite0 has 16 blocks"):
        reset_blocks(model, count, 0)  # type: ignore[arg-type]
