"""Several synthetic sets against the same real images, and the words made of the figures."""

from __future__ import annotations

import dataclasses
import io
import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from bridgejax.config import ClassifierSettings, Settings, TrainingSettings
from bridgejax.data import Examples
from bridgejax.errors import UserError
from bridgejax.report.set_sections import synthetic_html, synthetic_markdown
from bridgejax.studies.comparison_results import LeepScore, SetComparison, read_comparison, write_comparison_files
from bridgejax.studies.set_comparison import compare


class Eye(nnx.Module):
    """Features: the mean colour of sixteen parts of the picture."""

    preprocessing = types.SimpleNamespace(mean=(0.5,) * 3, std=(0.5,) * 3)

    def features(self, images):
        rows = images.reshape(images.shape[0], 4, 4, 4, 4, 3).mean((2, 4)).reshape(images.shape[0], -1)
        return jnp.concatenate([rows, jnp.ones((images.shape[0], 1))], axis=1)


def examples(count: int, seed: int, bright: int, kind: str) -> Examples:
    rng = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        file = io.BytesIO()
        base = rng.integers(0, 256 - bright, (4, 4, 3)) + bright
        Image.fromarray(np.kron(base, np.ones((4, 4, 1))).astype(np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return Examples(tuple(files), (np.arange(count) % 2).astype(np.int32), tuple(f"{kind}/{i}" for i in range(count)))


@pytest.fixture
def settings():
    return Settings(classifier=ClassifierSettings(image_size=16, crop=1.0), training=TrainingSettings(eval_batch_size=8))


def test_the_nearer_set_has_an_interval_and_a_copy_is_found(settings, tmp_path):
    real = examples(24, 0, 0, "real")
    bright, near = examples(24, 1, 120, "a"), examples(24, 2, 0, "b")
    copied = Examples((*near.images[:5], real.images[7], *near.images[6:]), near.labels, near.ids)
    figures, pictures = compare(Eye(), real, {"": bright, "near|<b>": copied}, settings, ("cat", "dog"))
    first, second = figures
    assert second.frechet.estimate < first.frechet.estimate
    assert second.frechet_less_first.high < 0
    assert second.kernel.distance < first.kernel.distance
    assert second.recall > first.recall
    closest = second.copies.closest[0]
    assert (closest.synthetic, closest.real, closest.suspected) == ("b/5", "real/7", True)
    assert closest.cosine_distance == pytest.approx(0, abs=1e-6)
    assert second.copies.both_suspected >= 1
    np.testing.assert_array_equal(pictures[1].pairs[0][0], pictures[1].pairs[0][1])
    found = SetComparison(classifier="x", shots=12, against="train", real_images=24, sets=tuple(figures))
    write_comparison_files(tmp_path, "identity", found, pictures)
    read, pictures_read = read_comparison(tmp_path)
    assert json.dumps(read.to_dict()) == json.dumps(found.to_dict())
    for stored, made in zip(pictures_read, pictures, strict=True):
        np.testing.assert_array_equal(stored.pairs, made.pairs)
        np.testing.assert_array_equal(stored.neighbours, made.neighbours)
    page = synthetic_html(found, pictures)
    assert page.count("<img") == 48 + 2 * 2 * 4
    assert "near|&lt;b&gt;" in page
    assert "<b>suspected</b>" in page
    text = "\n".join(synthetic_markdown(found, str, lambda heads, rows: repr((heads, rows))))
    assert "24 training images of the first seed (12 per class)" in text
    assert "minus the first set's" in text


def test_too_few_images_are_refused_and_few_leave_out_precision(settings):
    real = examples(3, 0, 0, "real")
    figures, _ = compare(Eye(), real, {"": examples(4, 1, 0, "a")}, settings, ("cat", "dog"))
    assert figures[0].precision is None
    found = SetComparison(classifier="x", shots=None, against="test", real_images=3, sets=tuple(figures))
    assert "precision" not in synthetic_html(found, [])
    with pytest.raises(UserError, match="there is one of 1"):
        compare(Eye(), real, {"": examples(1, 1, 0, "a")}, settings, ("cat", "dog"))


def test_leep_of_weights_without_a_head_is_a_dash():
    score = LeepScore(network="pretrained", images=8, outputs=None, leep=None, leep_matched=-0.5)
    page = synthetic_html(SetComparison(classifier="x", shots=None, leep=(score,)), [])
    assert "–" in page
    assert "−0.500" in page
    assert synthetic_html(None, []) == ""


def test_a_set_whose_images_are_all_alike_shows_it(settings):
    real, varied = examples(24, 0, 0, "real"), examples(24, 1, 0, "a")
    alike = Examples(tuple(varied.images[i % 2] for i in range(24)), varied.labels, varied.ids)
    (first, second), pictures = compare(Eye(), real, {"": varied, "alike": alike}, settings, ("cat", "dog"))
    assert first.variety.real == second.variety.real > 0.5 * first.variety.synthetic
    assert first.variety.synthetic > 100 * abs(second.variety.synthetic)
    row = first.variety.neighbours[1]
    assert row.name == "dog"
    assert row.ids[0] == "a/1"
    assert list(row.distances) == sorted(row.distances)
    assert {int(name.split("/")[1]) % 2 for name in row.ids} == {1}
    np.testing.assert_array_equal(pictures[1].neighbours[0, 0], pictures[1].neighbours[0, 1])
    captioned = dataclasses.replace(first, captions={"a/1": "a photo of a <dog> · seed 7"})
    page = synthetic_html(SetComparison("x", None, "test", 24, (captioned,)), pictures[:1])
    assert 'title="a photo of a &lt;dog&gt; · seed 7"' in page
