"""Sets whose images start from real ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bridgejax.data import Examples
from bridgejax.data.images import encode_png
from bridgejax.errors import UserError
from bridgejax.synthesis import RealGuidance, generate_set
from bridgejax.synthesis.guidance import paper_strength

OPTIONS = {"class_names": ["a", "b"], "per_class": 3, "batch_size": 4, "steps": 5}


class Copier:
    """A stand-in for a pipeline that returns what it starts from, and keeps how it was called."""

    digest, default_height, default_width, dtype = "c" * 64, 8, 12, "float32"

    def __init__(self):
        self.strengths = []

    def __call__(self, prompts, *, init_images, strength, **_):
        self.strengths.append(strength)
        return init_images


def shots(*greys, labels):
    """One plain image of each grey, wider than the set's images."""
    images = tuple(encode_png(np.full((10, 40, 3), grey, np.uint8)) for grey in greys)
    return Examples(images, np.asarray(labels, np.int32), tuple(map(str, greys)))


def test_images_start_from_the_shots_of_their_class_in_turn(tmp_path):
    pipeline = Copier()
    guidance = RealGuidance(shots(10, 200, 60, labels=[0, 1, 0]), 0.35)
    made = list(generate_set(tmp_path, pipeline=pipeline, guidance=guidance, **OPTIONS))
    greys = {(record["class_name"], record["index"]): np.unique(record["image"]).tolist() for record in made}
    assert greys == {("a", 0): [10], ("a", 1): [60], ("a", 2): [10], **{("b", index): [200] for index in range(3)}}
    assert set(pipeline.strengths) == {0.35}


@pytest.mark.parametrize(
    "other",
    [RealGuidance(shots(10, 201, labels=[0, 1]), 0.5), RealGuidance(shots(10, 200, labels=[0, 1]), 0.4), None],
    ids=["other shots", "another strength", "from noise"],
)
def test_a_set_of_other_shots_is_another_set(tmp_path, other):
    generate_set(tmp_path, pipeline=Copier(), guidance=RealGuidance(shots(10, 200, labels=[0, 1]), 0.5), **OPTIONS)
    with pytest.raises(UserError, match=r"holds another synthetic set \(guidance"):
        generate_set(tmp_path, pipeline=Copier(), guidance=other, **OPTIONS)
    assert json.loads((tmp_path / "identity.json").read_text())["identity"]["guidance"]["strength"] == 0.5


def test_a_real_pipeline_stays_near_the_shots_where_few_steps_are_made(tmp_path, tiny_generator):
    from bridgejax.diffusion import load_pipeline

    pipeline = load_pipeline(tiny_generator)
    real = shots(10, 200, labels=[0, 1])
    made = {}
    for strength in (0.2, 1.0):
        options = {**OPTIONS, "batch_size": 6, "guidance_scale": 1.0}
        made[strength] = list(
            generate_set(tmp_path / str(strength), pipeline=pipeline, guidance=RealGuidance(real, strength), **options)
        )
    start = pipeline.decode(pipeline.encode(np.full((1, 16, 16, 3), 10 / 255, np.float32)))[0]
    far = {k: np.mean([np.abs(r["image"] / 255 - start).mean() for r in v if r["label"] == 0]) for k, v in made.items()}
    assert far[0.2] < far[1.0]


def test_the_papers_strengths():
    assert [paper_strength(count) for count in (1, 2, 4, 8, 16)] == [0.5, 0.4, 0.35, 0.2, 0.15]
    assert [paper_strength(count) for count in (3, 100, None)] == [0.4, 0.15, 0.15]
