"""The plan: an image is its class and index, whatever else is in the set."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgejax.errors import UserError
from bridgejax.identity import image_seeds
from bridgejax.synthesis import make_plan
from bridgejax.synthesis.plan import default_shard_size

NAMES = ("bird", "a b/c", "ü<i>", "x_y", "犬")


def rows(plan):
    return {(i.class_name, i.index): (i.prompt, i.seed) for s in range(plan.num_shards) for i in plan.shard(s)}


@settings(max_examples=15, deadline=None)
@given(st.permutations(NAMES), st.integers(1, len(NAMES)), st.integers(1, 7), st.integers(0, 3))
def test_prompt_and_seed_of_an_image_do_not_depend_on_the_other_classes_or_the_shards(names, count, shard_size, seed):
    templates = ("a {}", "the {}", "one {}")
    whole = rows(make_plan(NAMES, 4, templates, seed, 3))
    part = rows(make_plan(names[:count], 4, templates, seed, shard_size))
    assert len(part) == 4 * count
    assert part.items() <= whole.items()


def test_seeds_differ_between_images_classes_and_sets():
    plans = [rows(make_plan(NAMES, 8, "{}", seed, 4)) for seed in (0, 1)]
    seeds = [seed for plan in plans for _, seed in plan.values()]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_larger_set_keeps_the_full_shards_of_a_smaller_one():
    small, large = (make_plan(NAMES, per_class, "{}", 0, 4) for per_class in (4, 9))
    assert [small.shard(i) for i in range(5)] == [large.shard(i) for i in range(5)]


def test_the_chosen_shard_size_is_whole_batches_and_a_million_images_are_a_few_hundred_files():
    for images, batch, most in ((10, 32, 1), (440, 32, 256), (10**5, 24, 256), (10**6, 24, 500), (10**6, 64, 500)):
        size = default_shard_size(images, batch)
        assert size % batch == 0
        assert -(-images // size) <= most
    assert default_shard_size(10**8, 64) == 2048
    assert default_shard_size(10**8, 8192) == 8192  # a batch is the least


def test_a_plan_is_worked_out_shard_by_shard():
    """A plan of four billion images costs no more than the shard that is asked for."""
    plan = make_plan(NAMES, (1 << 32) // len(NAMES) - 1, "a {}", 0, 1 << 16)
    last = plan.shard(plan.num_shards - 1)
    assert len(last) == plan.shard_length(plan.num_shards - 1)
    assert last[-1].index == plan.per_class - 1
    assert last[-1].seed == int(image_seeds(0, last[-1].class_name, [plan.per_class - 1])[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"per_class": 0}, r"^synthetic\.per_class=0 is not a whole number of at least 1"),
        ({"shard_size": 0}, r"^synthetic\.shard_size=0 is not a whole number of at least 1"),
        ({"class_names": []}, "^class_names is empty"),
        ({"template": "x"}, r"^prompts\.template 'x' has no \{\}"),
        ({"per_class": 1 << 31}, r"^synthetic\.per_class=2147483648 for . classes is too many"),
        ({"per_class": 100_000, "shard_size": 1}, r"^synthetic\.shard_size=1 makes more than 99999 shards"),
    ],
)
def test_a_plan_that_cannot_be_names_the_key(change, words):
    options = {"class_names": NAMES, "per_class": 2, "template": "{}", "seed": 0, "shard_size": 2} | change
    with pytest.raises(UserError, match=words):
        make_plan(**options)
