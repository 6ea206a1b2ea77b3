"""Pre-trains a small ResNet by momentum contrast on 1, 2, 4 and 8 virtual devices; prints the losses of each."""

from __future__ import annotations

import json

import jax
import numpy as np
from training_fixtures import tiny_resnet

from bridgejax.mesh import make_mesh
from bridgejax.training import TrainState, make_objective, make_optimizer, make_train_step

STEPS, ROWS = 20, 16


def losses(devices: int) -> list[float]:
    model = tiny_resnet(projection=16)
    objective = make_objective("moco", queue_size=64, key_momentum=0.9, norm_groups=8)
    optimizer = make_optimizer("sgd", 0.03, momentum=0.9, weight_decay=1e-4)
    state = TrainState.create(model, optimizer, objective=objective)
    step = make_train_step(objective, mesh=make_mesh(devices=jax.devices()[:devices]) if devices > 1 else None)
    rng, found = np.random.default_rng(0), []
    images = rng.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    for number in range(STEPS):
        chosen = images[np.arange(number * ROWS, (number + 1) * ROWS) % 64]
        views = [np.roll(chosen, rng.integers(-4, 5, 2), (1, 2)) for _ in range(2)]
        state, metrics = step(state, {"image": views[0], "view": views[1]})
        found.append(float(metrics["loss"]))
    return found


if __name__ == "__main__":
    print(json.dumps({str(devices): losses(devices) for devices in (1, 2, 4, 8)}))
