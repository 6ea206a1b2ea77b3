"""The scalars of a run in TensorBoard's event files."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_loop import tiny
from training_fixtures import Streams, task

from bridgejax.data.records import read_records
from bridgejax.errors import UserError
from bridgejax.recipes import recipe_from_config
from bridgejax.training import RunInputs, RunOptions, train_recipe

STAGES = [{"data": "real", "steps": 24, "learning_rate": 0.01, "schedule": "constant"}]


def train(folder: Path, streams: Streams | None = None, **options: object):
    inputs = RunInputs(tiny(), task(), 0, None, folder / "checkpoints", events=folder / "tensorboard")
    settings = RunOptions(batch_size=6, eval_batch_size=4, image_size=8, evaluations=2, **options)
    return train_recipe(recipe_from_config("mine", STAGES), inputs, settings, streams=streams or Streams())


def scalars(folder: Path) -> dict[str, dict[int, list[float]]]:
    """Returns tag → step → the values that stand there, over all event files."""
    from tensorflow import make_ndarray
    from tensorflow.core.util.event_pb2 import Event

    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for record in read_records(file):
            event = Event.FromString(bytes(record))
            for value in event.summary.value:
                found[value.tag][event.step].append(float(make_ndarray(value.tensor)))
    return found


def test_the_event_files_hold_what_the_history_tells(tmp_path):
    result = train(tmp_path / "whole")
    found = scalars(tmp_path / "whole" / "tensorboard")
    assert {step: values[0] for step, values in found["test/accuracy"].items()} == pytest.approx(
        {entry["step"]: entry["test_accuracy"] for entry in result.history if "test_accuracy" in entry}
    )
    assert list(found["train/loss"]) == sorted(found["train/loss"])
    assert max(found["train/loss"]) == 24
    assert found["train/loss"][24][0] < found["train/loss"][min(found["train/loss"])][0]
    assert [values[0] for values in found["train/learning_rate"].values()] == pytest.approx([0.01] * len(found["train/loss"]))
    assert all(value > 0 for values in found["train/images_per_second"].values() for value in values)
    assert set(found) >= {"test/mean_per_class_accuracy", "test/loss"}
    shown = EventAccumulator(str(tmp_path / "whole" / "tensorboard"))  # TensorBoard's own reader
    shown.Reload()
    assert set(shown.Tags()["tensors"]) == set(found)
    assert [event.step for event in shown.Tensors("train/loss")] == list(found["train/loss"])

    def stop(step: int) -> None:
        if step == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", Streams(stop), checkpoint_every=6)
    train(tmp_path / "stopped", checkpoint_every=6)
    again = scalars(tmp_path / "stopped" / "tensorboard")
    assert len(list((tmp_path / "stopped" / "tensorboard").iterdir())) == 2
    assert set(again["test/loss"]) == {12, 24}
    for step, values in again["test/loss"].items():
        assert values == pytest.approx([found["test/loss"][step][0]] * len(values))


def test_a_missing_package_is_named_before_anything_is_trained(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "clu" else find(name, *rest))
    streams = Streams()
    with pytest.raises(UserError, match=r"clu.* cannot be imported; `pip install 'bridgejax\[tensorboard\]'`"):
        train(tmp_path, streams)
    assert streams.calls == []
