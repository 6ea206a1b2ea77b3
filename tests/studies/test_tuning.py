"""What tuning chooses, and for what its choice holds."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bridgejax.config import TrainingSettings
from bridgejax.errors import UserError
from bridgejax.files import canonical_json
from bridgejax.studies.tuned_rates import TuningScope, with_candidate
from bridgejax.studies.tuning import Candidate, CandidateResult, choose


def result(rate: float, length: float, *accuracies: float, arm: str = "a") -> CandidateResult:
    return CandidateResult(Candidate(arm, rate, length), steps=10, accuracies=accuracies, diverged=not accuracies)


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ([result(0.1, 1, 0.5), result(0.2, 1, 0.6)], (0.2, 1)),
        ([result(0.1, 1, 0.9, 0.1), result(0.2, 1, 0.6, 0.6)], (0.2, 1)),  # the mean decides
        ([result(0.1, 3, 0.5), result(0.2, 1, 0.5)], (0.2, 1)),  # of equal ones the shorter
        ([result(0.2, 1, 0.5), result(0.1, 1, 0.5)], (0.1, 1)),  # then the smaller rate
        ([result(0.9, 1), result(0.1, 1, 0.0)], (0.1, 1)),  # one that diverged is out
        ([result(0.9, 1, 0.9, arm="b"), result(0.1, 1, 0.2)], (0.1, 1)),  # arms do not compete
    ],
)
def test_the_best_candidate_is_chosen_by_the_stated_rule(results, best):
    chosen = choose("a", results, (0.1, 0.2))
    assert (chosen.candidate.arm, chosen.candidate.learning_rate, chosen.candidate.length) == ("a", *best)


def test_an_arm_of_which_every_candidate_diverged_is_named_with_the_rates():
    with pytest.raises(UserError, match=r"every candidate of arm 'a' diverged; give lower .* than 0.5, 2"):
        choose("a", [result(0.5, 1), result(2, 1), result(0.5, 1, 0.9, arm="b")], (0.5, 2))


def test_a_candidate_changes_its_rate_and_the_lengths_that_are_set():
    training = TrainingSettings(learning_rate=0.1, base_steps=5, momentum=0.8)
    changed = with_candidate(training, 0.3, 0.5)
    assert changed == dataclasses.replace(training, learning_rate=0.3, base_steps=2)
    assert with_candidate(dataclasses.replace(training, steps=1), 0.3, 0.1).steps == 1


SCOPE = TuningScope("photos", ("bird", "fish"), "images", (1, 4), ("weights", 96, None), 8, {"a": "recipe a", "b": "recipe b"})


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({}, None),
        ({"shots": (4,), "recipes": {"b": "recipe b"}}, None),  # a part of what was tuned
        ({"task": "toys"}, "another task ('photos', not 'toys')"),
        ({"class_names": ("fish", "bird")}, "another class names (['bird', 'fish'], not ['fish', 'bird'])"),
        ({"images": "others"}, "other real images"),
        ({"shots": (1, None)}, "shots [1, 4], not None"),
        ({"classifier": ("weights", 64, None)}, "another classifier (['weights', 96, None], not ['weights', 64, None])"),
        ({"recipes": {"a": "recipe a", "c": "recipe c"}}, "another recipe of arm 'c'"),
    ],
)
def test_a_record_covers_the_study_or_says_in_what_it_differs(changes, difference):
    recorded = json.loads(canonical_json(dataclasses.asdict(SCOPE)))
    assert dataclasses.replace(SCOPE, **changes).difference(recorded) == difference


def test_a_record_without_images_says_so():
    recorded = json.loads(canonical_json(dataclasses.asdict(SCOPE)))
    del recorded["images"]
    assert SCOPE.difference(recorded) == "real images that it does not name"
