"""One step on one device and on eight: the same numbers."""

from __future__ import annotations

from training_fixtures import printed_by


def test_eight_devices_train_as_one_does():
    printed = printed_by("mesh_program.py", 8)
    # Sums in another order, in float32, through four steps.
    assert printed["metrics"] < 1e-5
    assert len(printed["parameters"]) > 4
    assert {name: value for name, value in printed["parameters"].items() if value > 1e-4} == {}
    assert printed["logits"] < 1e-4
    assert "a batch of 12 does not split over 8 devices" in printed["refused"]
