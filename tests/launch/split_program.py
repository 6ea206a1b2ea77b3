"""Trains with the state split over all processes, saves it in the folder given or reads what is there; prints both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

import jax
import numpy as np
from flax import nnx
from sharded_program import net, train

from bridgejax import runtime
from bridgejax.mesh import any_process, bytes_per_device, make_mesh
from bridgejax.training import TrainState, make_optimizer
from bridgejax.training.checkpoints import Checkpoints


def numbers(state: TrainState) -> list[float]:
    return [float(np.square(leaf).sum()) for leaf in jax.tree.leaves(nnx.state(state.model, nnx.Param))]


def main(folder: str) -> None:
    runtime.start()
    mesh = make_mesh((("fsdp", -1),))
    state = TrainState.create(net(), make_optimizer("sgd", 0.05), mesh=mesh)
    told: dict = {"bytes": bytes_per_device((state.params, state.opt_state))}
    checkpoints = Checkpoints(Path(folder) / "checkpoints")
    if checkpoints.latest_step() is not None:
        told["restored"] = numbers(checkpoints.restore(3, state))
    state, told["losses"] = train(mesh, make_optimizer("sgd", 0.05), steps=3, state=state)
    told["model"] = numbers(state)
    checkpoints.save(3, state, {})
    checkpoints.close()
    told["ended"] = any_process(jax.process_index() == 1, False)
    if runtime.is_first():
        print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
