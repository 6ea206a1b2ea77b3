"""Trains on one device and on eight virtual ones and prints the largest relative differences."""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx
from training_fixtures import TinyNet, batch

from bridgejax.mesh import make_mesh, shard_batch
from bridgejax.training import TrainState, make_eval_step, make_optimizer, make_train_step


def main() -> None:
    assert jax.device_count() == 8
    mesh = make_mesh()
    results = []
    for where in (None, mesh):
        state = TrainState.create(
            nnx.jit(lambda: TinyNet(nnx.Rngs(0), dropout=0.3))(), make_optimizer("sgd", 0.05, weight_decay=5e-4)
        )
        step, told = make_train_step(mixup_alpha=0.4, label_smoothing=0.1, mesh=where), []
        for number in range(4):
            data = batch(16, number)
            data["mask"] = np.array([1] * 13 + [0] * 3, np.float32)
            if where is not None and number == 3:
                data = shard_batch(where, data)
            state, metrics = step(state, data)
            told += [float(metrics["loss"]), float(metrics["gradient_norm"])]
        if where is not None:
            assert all(len(x.sharding.device_set) == 8 for x in state.params.values())
        images = {
            "image": np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype(np.uint8),
            "label": batch(16)["label"],
        }
        metrics = make_eval_step(where)(state, images)
        results.append((told, {k: np.asarray(v) for k, v in state.params.items()}, np.asarray(metrics["logits"])))
    one, eight = results
    np.testing.assert_allclose(one[0], eight[0], rtol=1e-5)
    for name, value in one[1].items():
        np.testing.assert_allclose(eight[1][name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(one[2], eight[2], rtol=1e-4, atol=1e-5)
    try:
        make_train_step(mesh=mesh)(state, batch(12))
    except ValueError as error:
        print(error)


if __name__ == "__main__":
    main()
