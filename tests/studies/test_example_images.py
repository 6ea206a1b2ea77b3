"""The images beside a report."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bridgejax.data import Examples
from bridgejax.data.images import encode_png
from bridgejax.studies.example_images import EXAMPLES_FILE, write_examples


def task(shots, seed):
    count = 9 if shots is None else shots
    images = tuple(encode_png(np.full((8, 8, 3), 10 * seed + number + 1, np.uint8)) for number in range(count))
    return SimpleNamespace(train=Examples(images, np.zeros(count, np.int32), tuple(map(str, range(count)))))


@pytest.mark.parametrize(("shots", "shown"), [((1, 4), 4), ((4, 1, 2), 4), ((2, None), 4), ((1,), 1)])
def test_those_of_the_most_shots_are_shown(shots, shown, tmp_path):
    runs = [SimpleNamespace(shots=count, seed=seed) for seed in (0, 1) for count in shots]
    write_examples(SimpleNamespace(runs=runs, task=task, class_names=("apple",), sets={}), tmp_path)
    with np.load(tmp_path / EXAMPLES_FILE) as stored:
        (row,) = stored["real"]
    assert [int(image[48, 48, 0]) for image in row if image.min() < 255] == list(range(1, shown + 1))
