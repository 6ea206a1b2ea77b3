"""An image's seed and noise depend on what it is, not on how it is made."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgejax.errors import UserError
from bridgejax.files import write_atomic
from bridgejax.identity import derive_seed, digest, image_seeds, keys_from_seeds


def test_seeds_are_those_of_jax_key():
    for seed in (0, 7, 2**31 - 1):
        expected = jax.random.key_data(jax.random.key(seed))
        np.testing.assert_array_equal(jax.random.key_data(keys_from_seeds([seed])[0]), expected)


def test_64_bit_seeds_differ_in_either_half():
    data = np.asarray(jax.random.key_data(keys_from_seeds([1, 2**32 + 1, 2**32])))
    assert len({tuple(row) for row in data}) == 3


@given(st.integers(0, 2**63 - 1), st.text(max_size=8), st.lists(st.integers(0, 10_000), min_size=1, max_size=6, unique=True))
@settings(max_examples=25, deadline=None)
def test_an_image_keeps_its_seed_in_any_company(seed, name, indices):
    together = image_seeds(seed, name, indices)
    alone = [image_seeds(seed, name, [index])[0] for index in indices]
    assert together.dtype == np.int64
    assert (together >= 0).all()
    np.testing.assert_array_equal(together, alone)


def test_classes_and_indices_do_not_share_seeds():
    seeds = np.concatenate([image_seeds(0, name, range(50)) for name in ("cat", "dog", "a/b", "Ünï")])
    assert len(set(seeds.tolist())) == 200


@pytest.mark.parametrize("bad", [1.5, 2**64, -(2**63) - 1])
def test_a_seed_that_is_no_64_bit_integer_is_refused(bad):
    with pytest.raises(UserError, match="64 bits"):
        keys_from_seeds([bad])


def test_digest_ignores_the_order_of_keys_but_not_values():
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert derive_seed(0, "split", 1) != derive_seed(0, "train", 1)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file.json"
    write_atomic(target, "old")
    with pytest.raises(UserError, match="could not be written"):
        write_atomic(tmp_path / "missing" / "file.json", "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
