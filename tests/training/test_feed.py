"""Batches go to the device ahead of their step, in order, and the time that the loop waits for them is recorded."""

from __future__ import annotations

import threading
import time

import jax
import numpy as np
import pytest
from flax import nnx
from training_fixtures import Streams, TinyNet, batch, examples, task

from bridgejax.errors import UserError
from bridgejax.mesh import data_sharding, make_mesh
from bridgejax.recipes import recipe_from_config
from bridgejax.training import (
    RunInputs,
    RunOptions,
    TrainState,
    make_optimizer,
    make_train_step,
    train_group,
    train_recipe,
)
from bridgejax.training.feed import AHEAD, Feed, PlacedBatch, started


def place(number: int) -> PlacedBatch:
    return PlacedBatch({"number": number}, {})


def test_two_batches_are_ahead_of_the_one_in_use_and_none_is_lost():
    drawn: list[int] = []

    def stream():
        for number in range(5):
            drawn.append(number)
            yield number

    feed, used = Feed(stream(), place), []
    assert drawn == []
    for ready in feed:
        used.append(ready.parts["number"])
        feed.fill()
        assert len(drawn) == min(len(used) + AHEAD, 5)
    assert used == [0, 1, 2, 3, 4]


def test_a_stream_is_started_before_it_is_asked_and_loses_nothing():
    began = threading.Event()

    def stream():
        began.set()
        yield from range(3)

    numbers = started(stream)
    assert began.wait(10)
    assert list(numbers) == [0, 1, 2]
    assert list(started(lambda: iter(()))) == []


def test_what_goes_wrong_at_a_streams_start_is_raised_where_it_is_used():
    def stream():
        raise UserError("no such image")
        yield

    numbers = started(stream)
    with pytest.raises(UserError, match="no such image"):
        next(numbers)


def test_the_first_step_waits_for_one_batch_alone():
    feed = Feed(iter(range(9)), place)
    next(feed)
    assert not feed._ready


def test_the_stall_is_what_the_loop_waited_since_it_was_last_asked():
    def slow():
        while True:
            time.sleep(0.02)
            yield 0

    feed = Feed(slow(), place)
    next(feed)
    feed.fill()
    assert feed.stall() >= 0.02 * (1 + AHEAD)
    next(feed)
    assert feed.stall() < 0.02


def test_batches_drawn_while_the_device_is_busy_are_no_stall():
    class Result:
        ready = False

        def is_ready(self) -> bool:
            return self.ready

    def slow():
        while True:
            time.sleep(0.02)
            yield 0

    feed, result = Feed(slow(), place), Result()
    next(feed)
    feed.stall()
    feed.fill(result)
    assert feed.stall() == 0.0
    next(feed)
    result.ready = True
    feed.fill(result)
    assert feed.stall() >= 0.02


def test_a_placed_batch_is_on_the_devices_and_still_checked():
    step = make_train_step()
    state = TrainState.create(TinyNet(nnx.Rngs(0)), make_optimizer("sgd", learning_rate=0.1))
    ready = step.place(batch())
    assert all(isinstance(part, jax.Array) for part in ready.parts.values())
    state, _ = step(state, ready)
    with pytest.raises(UserError, match="holds 3, but the model has 3 classes"):
        step(state, step.place({**batch(), "label": np.array([0, 1, 2, 3, 0, 1, 2, 0])}))
    mesh = make_mesh([("data", 1)], devices=jax.devices()[:1])
    parts = make_train_step(mesh=mesh).place(batch()).parts
    assert all(part.sharding == data_sharding(mesh) for part in parts.values())


def test_a_run_tells_its_input_stall_within_its_training_time():
    streams = Streams(lambda step: time.sleep(0.02))
    recipe = recipe_from_config("one", [{"data": "real", "steps": 8}], {"batch_norm": "train"})
    options = RunOptions(batch_size=6, eval_batch_size=4, image_size=8)
    alone = train_recipe(recipe, RunInputs(TinyNet(nnx.Rngs(0)), task()), options, streams=streams).metrics["seconds"]
    # The first batch may be there already: its stream starts while the state is made.
    assert 7 * 0.02 <= alone["input_stall"] <= alone["train"]
    members = [RunInputs(TinyNet(nnx.Rngs(seed)), task(), seed, examples(30, 5, "s")) for seed in range(2)]
    for result in train_group(recipe, members, options, strategy="vmap", streams=streams):
        assert 7 * 0.02 <= result.metrics["seconds"]["input_stall"] <= result.metrics["seconds"]["train"]
