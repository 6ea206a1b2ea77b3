"""Trains on one device and on eight virtual ones; prints the largest relative differences, and how a wrong batch is refused."""

from __future__ import annotations

import json

import jax
import numpy as np
from flax import nnx
from training_fixtures import TinyNet, batch

from bridgejax.mesh import make_mesh, shard_batch
from bridgejax.training import TrainState, make_eval_step, make_optimizer, make_train_step


def difference(found: object, expected: object, floor: float = 0.0) -> float:
    """Returns the largest |found - expected| / (|expected| + floor)."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float((np.abs(a - b) / (np.abs(b) + floor)).max())


def main() -> None:
    assert jax.device_count() == 8
    mesh = make_mesh()
    results = []
    for where in (None, mesh):
        state = TrainState.create(
            nnx.jit(lambda: TinyNet(nnx.Rngs(0), dropout=0.3))(), make_optimizer("sgd", 0.05, weight_decay=5e-4)
        )
        step, reported = make_train_step(mixup_alpha=0.4, label_smoothing=0.1, mesh=where), []
        for number in range(4):
            data = batch(16, number)
            data["mask"] = np.array([1] * 13 + [0] * 3, np.float32)
            if where is not None and number == 3:
                data = shard_batch(where, data)
            state, metrics = step(state, data)
            reported += [float(metrics["loss"]), float(metrics["gradient_norm"])]
        if where is not None:
            assert all(len(x.sharding.device_set) == 8 for x in state.params.values())
        images = {
            "image": np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype(np.uint8),
            "label": batch(16)["label"],
        }
        metrics = make_eval_step(where)(state, images)
        results.append((reported, {k: np.asarray(v) for k, v in state.params.items()}, np.asarray(metrics["logits"])))
    one, eight = results
    printed = {
        "metrics": difference(eight[0], one[0]),
        "parameters": {name: difference(eight[1][name], value, floor=0.01) for name, value in one[1].items()},
        "logits": difference(eight[2], one[2], floor=0.1),
    }
    try:
        make_train_step(mesh=mesh)(state, batch(12))
    except ValueError as error:
        printed["refused"] = str(error)
    print(json.dumps(printed))


if __name__ == "__main__":
    main()
