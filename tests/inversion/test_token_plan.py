"""Which tokens a config learns from one split: their images, where they start, what decides them."""

from __future__ import annotations

import numpy as np
import pytest

from bridgejax.config import GeneratorSettings, InversionSettings, Settings
from bridgejax.data import Examples, Task
from bridgejax.errors import UserError
from bridgejax.inversion.token_plan import TokenPlan, Vocabulary, split_name

LABELS = np.asarray([0, 1, 0, 1, 1], np.int32)


@pytest.fixture(scope="module")
def task():
    def part(name, labels):
        return Examples((b"",) * len(labels), labels, tuple(f"{name}/{i}" for i in range(len(labels))))

    return Task("shapes", ("ab", "c"), part("train", LABELS), None, part("test", LABELS), "digest")


@pytest.fixture(scope="module")
def plan(tiny_folder, task):
    """plan(shots=…, seed=…, images=…, **keys of `inversion`) → a plan."""
    generator = GeneratorSettings(weights=str(tiny_folder))
    vocabulary = Vocabulary(Settings(generator=generator))

    def make(shots=None, seed=0, task=task, **keys):
        inversion = InversionSettings(**{"mode": "dataset", "initial": "mean_feature", **keys})
        return TokenPlan(Settings(generator=generator, inversion=inversion), task, shots, seed, vocabulary)

    make.vocabulary = vocabulary
    return make


def test_a_token_sees_the_training_images_of_its_classes(plan):
    (style,) = plan().prompts.tokens
    assert plan().images_of(style).tolist() == [0, 1, 2, 3, 4]
    by_class = plan(mode="class")
    assert [by_class.images_of(token).tolist() for token in by_class.prompts.tokens] == [[0, 2], [1, 3, 4]]
    assert [list(by_class.classes_of(token)) for token in by_class.prompts.tokens] == [[0], [1]]


def test_a_token_starts_from_the_names_of_its_classes_or_from_chance(plan):
    (table,) = plan.vocabulary.tables
    (a, b), (c,) = (plan.vocabulary.ids(name)[0] for name in ("ab", "c"))
    by_class = plan(mode="class", vectors=2)
    (first,), (second,) = (by_class.start(token) for token in by_class.prompts.tokens)
    np.testing.assert_allclose(first, np.tile((table[a] + table[b]) / 2, (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(second, np.tile(table[c], (2, 1)))
    one = plan()
    np.testing.assert_allclose(one.start(one.prompts.tokens[0])[0][0], (first[0] + second[0]) / 2, rtol=1e-6)
    word = plan(initial="c")
    np.testing.assert_array_equal(word.start(word.prompts.tokens[0])[0][0], table[c])
    chance = [plan(initial="random", seed=seed) for seed in (0, 0, 1)]
    rows = [each.start(each.prompts.tokens[0])[0] for each in chance]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).all()


def test_an_untrained_token_has_no_steps_and_starts_from_chance(plan):
    untrained = plan(mode="untrained", steps=50)
    assert (untrained.steps, untrained.determinants["initial"]) == (0, "random")


def test_what_decides_a_token_is_in_its_identity_and_nothing_else(plan):
    identity = plan().identity
    assert plan(evaluations=1, checkpoint_every=7).identity == identity
    others = [plan(seed=1), plan(learning_rate=0.1), plan(vectors=2), plan(longest=1.0)]
    assert len({identity, *(each.identity for each in others)}) == 5


def test_the_bound_is_in_mean_lengths_of_the_vocabulary(plan):
    lengths = np.linalg.norm(plan.vocabulary.tables[0], axis=1)
    assert plan(longest=2.0).max_norms == pytest.approx((2 * lengths.mean(),))
    assert plan().max_norms is None


def test_one_image_is_too_few_to_learn_from(plan, task):
    single = Task("shapes", task.class_names, task.train.select([0, 1, 2]), None, task.test, "digest")
    with pytest.raises(UserError, match=r"class 'c' has 1 training image .* or inversion.mode='dataset'"):
        plan(mode="class", task=single)
    assert plan(task=single).steps


def test_splits_have_folders_of_their_own():
    assert (split_name(None, 0), split_name(4, 2)) == ("shots-all_seed-0", "shots-4_seed-2")
