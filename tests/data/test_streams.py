"""Streams: the same batches for the same seed from any step, in the stated shares, with the pixels they should have."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture

from bridgejax.data import Examples, eval_batches, synthetic_examples, train_batches, train_positions
from bridgejax.data.images import decode_rgb
from bridgejax.data.pixels import Pixels
from bridgejax.data.sampling import Sampler
from bridgejax.data.streams import RATIO, SCALE
from bridgejax.data.tensorflow import import_tensorflow
from bridgejax.errors import UserError
from bridgejax.synthesis import generate_set

SIZES = {"batch_size": 4, "image_size": 8}


def first(count, *args, **options):
    return list(itertools.islice(train_batches(*args, **SIZES | options), count))


def numbered(count, start=0):
    """Images whose one colour tells which they are."""
    images = tuple(encoded(np.full((10, 14, 3), start + i, np.uint8)) for i in range(count))
    return Examples(images, np.arange(count, dtype=np.int32), tuple(str(start + i) for i in range(count)))


def test_batches_are_what_the_training_step_takes(make_examples):
    (batch,) = first(1, [make_examples(5)], weights=None, seed=0)
    assert {key: (value.dtype, value.shape) for key, value in batch.items()} == {
        "image": (np.uint8, (4, 8, 8, 3)),
        "label": (np.int32, (4,)),
        "source": (np.int32, (4,)),
    }


@pytest.mark.parametrize("memory_bytes", [1 << 30, 0])
def test_a_batch_depends_on_seed_and_step_alone(make_examples, memory_bytes):
    sources = [make_examples(5), make_examples(7, 20, 9, first=50)]
    options = {"weights": [0.4, 0.6], "memory_bytes": memory_bytes}
    whole = first(6, sources, seed=1, **options)
    late = first(2, sources, seed=1, start_step=4, **options)
    for left, right in zip(whole[4:], late, strict=True):
        for key in left:
            np.testing.assert_array_equal(left[key], right[key])
    other = first(6, sources, seed=2, **options)
    assert any((left["image"] != right["image"]).any() for left, right in zip(whole, other, strict=True))
    assert any((whole[0]["image"] != batch["image"]).any() for batch in whole[1:])


@pytest.mark.parametrize("start", [0, 3, 130])
@pytest.mark.parametrize("weights", [None, [0.25, 0.75]])
def test_positions_alone_are_those_of_the_batches(start, weights):
    sources = [numbered(5), numbered(9, start=5)]
    options = {"weights": weights, "seed": 3, "start_step": start}
    positions = list(itertools.islice(train_positions([5, 9], batch_size=4, **options), 3))
    until = train_positions([5, 9], batch_size=4, **options, end_step=options.get("start_step", 0) + 3)
    np.testing.assert_array_equal(list(itertools.islice(until, 3)), positions)
    for batch, found in zip(first(3, sources, augment=False, **options), positions, strict=True):
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], found)


@pytest.mark.parametrize("crop", [1.0, 0.5])
def test_what_is_not_augmented_is_cut_as_in_evaluation(make_examples, crop):
    examples = make_examples(5, classes=5)
    (found,) = first(1, [examples], weights=None, seed=0, augment=False, crop=crop)
    (whole,) = eval_batches(examples, batch_size=5, image_size=8, crop=crop)
    for image, label in zip(found["image"], found["label"], strict=True):
        np.testing.assert_array_equal(image, whole["image"][whole["label"] == label][0])


def test_images_kept_in_memory_and_images_read_anew_give_the_same_batches(make_examples):
    sources = [make_examples(5), make_examples(7, 20, 9, first=50)]
    kept, read = (first(3, sources, weights=None, seed=1, memory_bytes=size) for size in (1 << 30, 0))
    for left, right in zip(kept, read, strict=True):
        for key in left:
            np.testing.assert_array_equal(left[key], right[key])


def shown(batches):
    return np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])


def test_the_union_shows_every_example_once_per_epoch_in_new_orders():
    batches = first(15, [numbered(5), numbered(7, start=100)], weights=None, seed=0)
    epochs = shown(batches).reshape(5, 12)
    for epoch in epochs:
        assert sorted(epoch) == [*range(5), *range(100, 107)]
    assert len({tuple(epoch) for epoch in epochs}) > 1
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(labels, shown(batches) % 100)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.1], [1.0, 3.0], [0.0, 1.0], [0.2, 0.3, 0.5]])
def test_sources_are_mixed_in_the_stated_shares(shares):
    sources = [numbered(count, start=start) for count, start in ((5, 0), (30, 100), (1, 200))][: len(shares)]
    values = shown(first(50, sources, weights=shares, seed=0))
    for source, share in enumerate(shares):
        mine = values // 100 == source
        expected = share / sum(shares)
        for stretch in (40, 100, 200):
            assert abs(mine[:stretch].sum() - stretch * expected) <= 2
        if mine.any():
            counts = np.bincount(values[mine] - 100 * source, minlength=len(sources[source]))
            assert counts.max() - counts.min() <= 1


def test_random_crops_stay_within_the_range_and_mirror_half():
    row = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    source = Examples((encoded(row),), np.zeros(1, np.int32), ("x",))
    batches = first(40, [source], weights=None, seed=0, scale=(0.25, 1.0), ratio=(1.0, 1.0), image_size=100)
    spans = np.concatenate([b["image"][:, 50, -1, 0].astype(int) - b["image"][:, 50, 0, 0] for b in batches])
    assert 0.3 < (spans < 0).mean() < 0.7
    widths = (np.abs(spans) + 1) / 200
    assert widths.min() > 0.45
    assert widths.max() <= 1.0
    assert np.ptp(widths) > 0.3
    plain = first(2, [source], weights=None, seed=0, augment=False)
    np.testing.assert_array_equal(plain[0]["image"], plain[1]["image"])


def plain_crop(tf, image, draws, size):
    """One image's random resized crop and mirroring, as the stream documents it and TensorFlow's own function resizes."""
    whole = np.array(image.shape[:2], np.float32)
    (low, high), (narrow, wide) = SCALE, np.log(RATIO)
    area = whole[0] * whole[1] * tf.constant(low + draws[0] * (high - low), tf.float32)
    stretch = tf.exp(narrow + tf.constant(draws[1]) * (wide - narrow))
    sides = np.clip(np.round([tf.sqrt(area / stretch), tf.sqrt(area * stretch)]), 1, whole).astype(np.float32)
    top, left = np.minimum(np.floor(draws[2:4] * (whole - sides + 1)), whole - sides).astype(int)
    height, width = sides.astype(int)
    cut = tf.image.resize(image[top : top + height, left : left + width], [size, size], antialias=True).numpy()
    cut = np.clip(np.round(cut), 0, 255).astype(np.uint8)
    return cut[:, ::-1] if draws[4] < 0.5 else cut


@pytest.mark.parametrize("batch_size", [4, 48])
def test_batches_hold_each_image_cut_and_resized_as_it_would_be_alone(batch_size):
    rng = np.random.default_rng(0)
    sides = [(1, 1), (64, 64), (5, 90), (200, 3), *rng.integers(2, 120, (26, 2))]
    images = [rng.integers(0, 256, (*map(int, side), 3), np.uint8) for side in sides]
    examples = Examples(tuple(map(encoded, images)), np.zeros(30, np.int32), tuple(map(str, range(30))))
    tf, size = import_tensorflow(), 24
    pixels, sampler = Pixels([examples], 2 * size), Sampler([30], None, 7, batch_size)
    for step, batch in enumerate(first(3, [examples], seed=7, batch_size=batch_size, image_size=size)):
        positions, draws = (part.numpy() for part in sampler(tf.constant(step, tf.int64)))
        expected = [plain_crop(tf, pixels.decode(int(p)), d, size) for p, d in zip(positions, draws, strict=True)]
        np.testing.assert_array_equal(batch["image"], np.stack(expected))


def test_evaluation_shows_all_in_order_with_a_padded_end(make_examples):
    examples = make_examples(10)
    batches = list(eval_batches(examples, **SIZES))
    assert [batch["image"].shape for batch in batches] == [(4, 8, 8, 3)] * 3
    mask = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(mask, [1] * 10 + [0] * 2)
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(labels[:10], examples.labels)
    read = list(eval_batches(examples, **SIZES, memory_bytes=0))
    for left, right in zip(batches, read, strict=True):
        np.testing.assert_array_equal(left["image"], right["image"])
    assert list(eval_batches(examples.select([]), **SIZES)) == []


def test_evaluation_cuts_the_middle():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:40] = 255
    source = Examples((encoded(image),), np.zeros(1, np.int32), ("x",))
    (batch,) = eval_batches(source, batch_size=1, image_size=20, crop=0.5)
    assert batch["image"].min() == 255
    (wide,) = eval_batches(source, batch_size=1, image_size=40, crop=1.0)
    np.testing.assert_array_equal(wide["image"][0], image[:, 10:50])


def test_shares_and_sizes_that_cannot_be(make_examples):
    some, none = make_examples(3), make_examples(0)
    for sources, options, words in (
        ([some, some], {"weights": [1.0]}, "one per source"),
        ([some, some], {"weights": [0.0, 0.0]}, "not all 0"),
        ([some, none], {"weights": [0.5, 0.5]}, "without images"),
        ([none], {"weights": None}, "no training images"),
        ([some], {"weights": None, "batch_size": 0}, "batch_size=0 is not positive"),
    ):
        with pytest.raises(UserError, match=words):
            first(1, sources, seed=0, **options)
    with pytest.raises(UserError, match=r"crop=0\.0 is not in \(0, 1\]"):
        next(eval_batches(some, **SIZES, crop=0.0))


@pytest.mark.parametrize("memory_bytes", [1 << 30, 0])
def test_an_image_that_does_not_decode_is_named(memory_bytes):
    broken = Examples((b"no image",), np.zeros(1, np.int32), ("cat/7.png",))
    with pytest.raises(UserError, match=r"image 'cat/7\.png' could not be decoded"):
        first(1, [broken], weights=None, seed=0, memory_bytes=memory_bytes)


def test_a_synthetic_set_as_examples(tmp_path):
    def solid(prompts, *, seeds, height, width, **options):
        return np.stack([np.full((height, width, 3), (seed % 256) / 255, np.float32) for seed in seeds])

    names = ["a b", "c_d", "ü"]
    made = generate_set(tmp_path, pipeline=solid, class_names=names, per_class=4, height=8, width=8, batch_size=4)
    examples = synthetic_examples(tmp_path)
    assert examples.ids[:4] == ("a b/0", "c_d/0", "ü/0", "a b/1")
    (batch,) = eval_batches(examples.select(range(4)), **SIZES)
    np.testing.assert_array_equal(
        batch["image"], np.stack([record["image"] for record, _ in zip(made, range(4), strict=False)])
    )
    part = synthetic_examples(tmp_path, class_names=["ü", "c d"], per_class=2)
    assert list(zip(part.ids, part.labels.tolist(), strict=True)) == [("ü/0", 0), ("c_d/0", 1), ("ü/1", 0), ("c_d/1", 1)]
    for options, words in (
        ({"class_names": ["x"]}, "names 'x', which is not a class of the synthetic set"),
        ({"per_class": 5}, "class 'a b' of .* has 4 images, fewer than per_class=5"),
    ):
        with pytest.raises(UserError, match=words):
            synthetic_examples(tmp_path, **options)
    victim = tmp_path / "bridgejax_synthetic-train.tfrecord-00001"
    data = bytearray(victim.read_bytes())
    data[60] ^= 1
    victim.write_bytes(data)
    with pytest.raises(UserError, match="00001 is damaged; make it again"):
        synthetic_examples(tmp_path)
    with pytest.raises(UserError, match="holds no finished synthetic set"):
        synthetic_examples(tmp_path / "absent")


def test_streams_dropped_half_way_do_not_hold_up_the_end_of_the_program(tmp_path):
    program = """
import io, numpy as np
from PIL import Image
from bridgejax.data import Examples, train_batches
file = io.BytesIO(); Image.new("RGB", (64, 64)).save(file, "PNG")
one = Examples((file.getvalue(),), np.zeros(1, np.int32), ("x",))
streams = []
for memory in (0, 1 << 30) * 3:
    streams.append(train_batches([one], weights=None, batch_size=8, image_size=32, seed=0, memory_bytes=memory))
    next(streams[-1])
"""
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=200, cwd=tmp_path, env=os.environ | {"PYTHONPATH": root}
    )


def test_another_view_has_the_same_images_augmented_otherwise(make_examples):
    sources = [make_examples(5, 20, 20)]
    one, two = (first(3, sources, seed=1, view=view) for view in (0, 1))
    for left, right in zip(one, two, strict=True):
        np.testing.assert_array_equal(left["label"], right["label"])
        assert (left["image"] != right["image"]).any()


@pytest.mark.parametrize(
    ("repeats", "batch_size", "weights", "rows"),
    [(3, 12, None, None), (3, 8, None, None), (2, 6, [0.5, 0.5], None), (4, 8, [0.75, 0.25], slice(4, 8))],
)
@pytest.mark.parametrize("memory_bytes", [1 << 30, 0])
def test_repeats_show_what_is_drawn_so_often_augmented_each_time(
    make_examples, memory_bytes, repeats, batch_size, weights, rows
):
    sources, epochs = [make_examples(9, 50, 60, classes=9), make_examples(3, 50, 60, first=9)], 4
    options = {"weights": weights, "seed": 5, "image_size": 16, "memory_bytes": memory_bytes}
    count = epochs * 12 * repeats // batch_size
    stream = train_batches(sources, batch_size=batch_size, repeats=repeats, rows=rows, **options)
    batches = list(itertools.islice(stream, count))
    shown = np.concatenate([batch["image"] for batch in batches]).reshape(-1, 16 * 16 * 3)
    places = [np.concatenate([batch[key] for batch in batches]) for key in ("source", "label")]
    if rows is None:  # the images drawn one after another are those of a stream without repeats
        single = train_batches(sources, batch_size=12, **options)
        drawn = list(itertools.islice(single, epochs))
        for key, found in zip(("source", "label"), places, strict=True):
            np.testing.assert_array_equal(found, np.repeat(np.concatenate([batch[key] for batch in drawn]), repeats))
    for copies in shown.reshape(-1, repeats, shown.shape[1]):
        assert len(np.unique(copies, axis=0)) == repeats
    later = next(train_batches(sources, batch_size=batch_size, repeats=repeats, rows=rows, start_step=count - 1, **options))
    np.testing.assert_array_equal(later["image"], batches[-1]["image"])


@pytest.mark.parametrize("memory_bytes", [1 << 30, 0])
def test_reduced_images_are_those_of_low_resolution_brought_back(memory_bytes):
    large = [picture(number, 40, 48) for number in range(6)]
    small = [decode_rgb(encoded(image), 10) for image in large]
    labels, ids = np.arange(6, dtype=np.int32), tuple("abcdef")
    expected, found = (
        first(2, [examples], seed=1, image_size=32, memory_bytes=memory_bytes)
        for examples in (
            Examples(tuple(map(encoded, small)), labels, ids),
            Examples(tuple(map(encoded, large)), labels, ids, side=10).select(range(6)),
        )
    )
    for left, right in zip(expected, found, strict=True):
        np.testing.assert_array_equal(left["image"], right["image"])
