"""CutMix, random erasing and the operations of RandAugment against timm's, on the same draws."""

from __future__ import annotations

import importlib.util
import random
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bridgejax.training.augmentation import erased
from bridgejax.training.mixing import MixupDraw, cut_box, mixed
from bridgejax.training.randaugment import OPERATIONS, operated

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

THEIRS = {
    **{"autocontrast": "AutoContrast", "equalize": "Equalize", "invert": "Invert", "posterize": "PosterizeIncreasing"},
    **{"solarize": "SolarizeIncreasing", "solarize_add": "SolarizeAdd", "contrast": "ContrastIncreasing"},
    **{"brightness": "BrightnessIncreasing", "colour": "ColorIncreasing", "sharpness": "SharpnessIncreasing"},
    **{"rotate": "Rotate", "shear_x": "ShearX", "shear_y": "ShearY"},
    **{"translate_x": "TranslateXRel", "translate_y": "TranslateYRel"},
}
FILL = (124, 116, 104)


def timm_file(name: str) -> types.ModuleType:
    """One of timm's files of data by itself: the package imports torchvision."""
    package = importlib.util.find_spec("timm")
    assert package is not None
    file = Path(package.submodule_search_locations[0]) / "data" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"timm_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", [(32, 32), (17, 40)])
def test_a_cut_batch_is_timms(monkeypatch, size):
    theirs = timm_file("mixup")
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(4, *size, 3)).astype(np.float32), np.asarray([0, 2, 1, 1])
    for lam in np.float32([0.02, 0.3, 0.61, 0.97]):
        centre = [int(rng.integers(0, side)) for side in size]
        mix = theirs.Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=3)
        places = iter(centre)
        monkeypatch.setattr(theirs.np.random, "randint", lambda *_, size=None, places=places: next(places))
        monkeypatch.setattr(mix, "_params_per_batch", lambda lam=lam: (float(lam), True))
        x, y = mix(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels))
        box, beside = cut_box(jnp.float32(lam), jnp.asarray(centre, jnp.int32), size)
        draw = MixupDraw(beside, jnp.arange(4)[::-1], box)
        np.testing.assert_array_equal(mixed(jnp.asarray(images), draw), x.numpy().transpose(0, 2, 3, 1))
        np.testing.assert_allclose(mixed(jnp.eye(3)[labels], draw), y.numpy(), atol=1e-6)


def test_erased_boxes_are_timms(monkeypatch):
    erasing = timm_file("random_erasing").RandomErasing(probability=1.0, mode="const", device="cpu")
    image = jnp.ones((24, 14, 3))
    program = jax.jit(lambda key: erased(key, image, 1.0, "zero"))
    for number in range(60):
        key = jax.random.key(number)
        # The stream of draws: for each box its area and aspect, and where it fits its place.
        boxes = np.asarray(jax.random.uniform(jax.random.split(key, 3)[1], (4, 10)), np.float64).T
        parts = iter(boxes)
        turn: dict[str, np.ndarray] = {}

        def uniform(low, high, parts=parts, turn=turn):
            if "aspect" not in turn:
                area, aspect, down, right = next(parts)
                turn.update(aspect=aspect, places=[down, right])
                return low + area * (high - low)
            return low + turn.pop("aspect") * (high - low)

        monkeypatch.setattr(random, "uniform", uniform)
        monkeypatch.setattr(random, "randint", lambda low, high, turn=turn: low + int(turn["places"].pop(0) * (high - low + 1)))
        expected = erasing(torch.ones(3, 24, 14)).numpy().transpose(1, 2, 0)
        np.testing.assert_array_equal(program(key), expected, err_msg=str(number))
    monkeypatch.undo()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_pillows(monkeypatch, name):
    theirs = timm_file("auto_augment")
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 200, 23)[:, None, None] + rng.integers(0, 40, (23, 31, 3))
    pixels = ramp.astype(np.uint8)
    program = jax.jit(lambda level, sign: operated(pixels, OPERATIONS.index(name), level, sign, jnp.asarray(FILL)))
    for level in (0.0, 0.37, 0.9, 1.0):
        for sign in (1.0, -1.0):
            monkeypatch.setattr(theirs, "_randomly_negate", lambda value, sign=sign: sign * value)
            argument = theirs.LEVEL_TO_ARG[THEIRS[name]]
            arguments = () if argument is None else argument(10 * level, {})
            options = {"resample": Image.Resampling.BILINEAR, "fillcolor": FILL}
            if arguments == (0,) and name == "posterize":  # Pillow refuses to keep no bit
                expected = np.zeros(pixels.shape, np.int32)
            else:
                done = theirs.NAME_TO_OP[THEIRS[name]](Image.fromarray(pixels), *arguments, **options)
                expected = np.asarray(done, np.int32)
            found = np.asarray(program(jnp.float32(level), jnp.float32(sign)), np.int32)
            # Numbers that are whole but for rounding may be cut to the one below, and so may a place on an edge.
            apart = np.abs(found - expected)
            assert (apart > 1).mean() < 0.01, (level, sign)
            assert (apart > 0).mean() < 0.04, (level, sign)
