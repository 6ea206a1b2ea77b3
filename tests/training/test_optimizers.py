"""What an optimiser is not made of."""

from __future__ import annotations

import pytest

from bridgejax.errors import UserError
from bridgejax.training import LearningRateSchedule, make_optimizer


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"momentum": None}, "momentum is None; give a number from 0 to below 1"),
        ({"momentum": "a"}, "momentum is 'a'; give a number from 0 to below 1"),
        ({"momentum": 1}, "momentum is 1; give a number from 0 to below 1"),
        ({"betas": 0.9}, "betas is 0.9; give two numbers"),
        ({"betas": (0.9,)}, r"betas is \(0.9,\); give two numbers"),
        ({"betas": (0.9, None)}, r"betas\[1\] is None; give a number from 0 to below 1"),
        ({"eps": None}, "eps is None; give a finite number"),
        ({"eps": 0}, "eps is 0; give a number above 0"),
        ({"learning_rate": "a"}, "learning_rate is 'a'; give a finite number"),
    ],
)
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_wrong_option_gets_one_sentence(name, options, words):
    with pytest.raises(UserError, match=words):
        make_optimizer(name, **{"learning_rate": 0.1, **options})


@pytest.mark.parametrize(("kind", "warmup"), [(None, 0), ("cosine", "a"), ("cosine", 9)])
def test_a_wrong_schedule_gets_one_sentence(kind, warmup):
    with pytest.raises(UserError, match=r"schedule None is unknown|warmup_steps is"):
        LearningRateSchedule.make(kind, 0.1, total=4, warmup=warmup)
