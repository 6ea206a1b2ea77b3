"""What an optimiser is not made of."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
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
        ({"clip_norm": 0}, "clip_norm is 0; give a number above 0"),
        ({"learning_rate": "a"}, "learning_rate is 'a'; give a finite number"),
        ({"learning_rate": lambda: 0.1}, "is a function that cannot be traced from the step"),
        ({"learning_rate": lambda step: 0.1 if step < 3 else 0.2}, "jnp.where in place of if"),
        ({"learning_rate": lambda step: "a"}, "is a function that cannot be traced from the step"),
        ({"learning_rate": lambda step: jnp.ones(3)}, r"returns shape \[3\]; it must return one number"),
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


@pytest.mark.parity
@pytest.mark.parametrize("clip_norm", [1.0, 0.3, 50.0])
def test_clipping_is_pytorchs(clip_norm):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("kernel", (5, 3)), ("bias", (3,)))}
    rates = np.asarray([0.01, 0.002, 0.0], np.float32)
    optimizer = make_optimizer("adamw", lambda step: jnp.asarray(rates)[step], weight_decay=0.1, clip_norm=clip_norm)
    state, params = optimizer.init(values), values
    theirs = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in values.items()}
    reference = torch.optim.AdamW(theirs.values(), lr=1.0, weight_decay=0.1)
    for rate in rates:
        gradients = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in values.items()}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for name, gradient in gradients.items():
            theirs[name].grad = torch.from_numpy(gradient.copy())
        torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        reference.param_groups[0]["lr"] = float(rate)
        reference.step()
        for name, value in params.items():
            np.testing.assert_allclose(value, theirs[name].detach().numpy(), rtol=1e-5, atol=1e-7)


def test_optimisers_that_clip_otherwise_are_not_the_same():
    assert make_optimizer("sgd", 0.1, clip_norm=1.0) == make_optimizer("sgd", 0.2, clip_norm=1.0)
    assert make_optimizer("sgd", 0.1, clip_norm=1.0) != make_optimizer("sgd", 0.1)
