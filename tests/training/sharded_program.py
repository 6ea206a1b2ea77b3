"""Trains a small network on meshes of up to eight virtual devices; prints the losses, what each device holds, and more."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from bridgejax.mesh import bytes_per_device, local_rows, make_mesh
from bridgejax.training import TrainState, make_eval_step, make_optimizer, make_train_step
from bridgejax.training.checkpoints import Checkpoints

MESHES = {
    "data 2": (("data", 2),),
    "data 4": (("data", 4),),
    "data 8": (("data", 8),),
    "fsdp 2": (("fsdp", 2),),
    "data 2, fsdp 2": (("data", 2), ("fsdp", 2)),
    "fsdp 8": (("fsdp", 8),),
    "data 2, fsdp 2, model 2": (("data", 2), ("fsdp", 2), ("model", 2)),
}
STEPS = 50


class Net(nnx.Module):
    """A patch embedding, a block with the names of a transformer's, a batch norm and a head."""

    def __init__(self, rngs: nnx.Rngs, batch_norm: bool = True) -> None:
        self.patch = nnx.Linear(48, 64, rngs=rngs)
        self.fc1 = nnx.Linear(64, 128, rngs=rngs)
        self.fc2 = nnx.Linear(128, 64, rngs=rngs)
        self.bn = nnx.BatchNorm(64, momentum=0.9, rngs=rngs) if batch_norm else None
        self.head = nnx.Linear(64, 5, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.patch(images.reshape(images.shape[0], -1))
        x = x + self.fc2(nnx.gelu(self.fc1(x)))
        return self.head(nnx.relu(x if self.bn is None else self.bn(x)))


def net(batch_norm: bool = True) -> Net:
    return nnx.jit(lambda: Net(nnx.Rngs(0), batch_norm))()


def batch(number: int, rows: int = 32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    labels = rng.integers(0, 5, rows).astype(np.int32)
    images = rng.normal(size=(rows, 4, 4, 3)) + labels[:, None, None, None] / 4
    return {"image": images.astype(np.float32), "label": labels, "mask": (rng.random(rows) < 0.8).astype(np.float32)}


def mesh_of(axes):
    count = int(np.prod([size for _, size in axes]))
    return make_mesh(axes, devices=jax.devices()[:count])


def train(mesh, optimizer, *, steps=STEPS, state=None, batch_norm=True, **options):
    state = state or TrainState.create(net(batch_norm), optimizer, mesh=mesh)
    step, losses = make_train_step(mesh=mesh, **options), []
    for number in range(steps):
        whole = batch(number)
        rows = local_rows(mesh, len(whole["label"]))
        state, metrics = step(state, {name: part[rows] for name, part in whole.items()})
        losses.append(float(metrics["loss"]))
    return state, losses


def main(output: str) -> None:
    assert jax.device_count() == 8
    printed: dict = {"losses": {}, "bytes": {}, "logits": {}}
    plain, printed["plain"] = train(None, make_optimizer("sgd", 0.05, weight_decay=5e-4))
    printed["bytes"]["plain"] = bytes_per_device((plain.params, plain.opt_state))
    printed["logits"]["plain"] = np.asarray(make_eval_step()(plain, {"image": batch(99)["image"]})["logits"]).tolist()
    for name, axes in MESHES.items():
        mesh = mesh_of(axes)
        state, printed["losses"][name] = train(mesh, make_optimizer("sgd", 0.05, weight_decay=5e-4))
        printed["bytes"][name] = bytes_per_device((state.params, state.opt_state))
        on_first = [
            shard.data.nbytes
            for leaf in jax.tree.leaves((state.params, state.opt_state))
            for shard in leaf.addressable_shards
            if shard.device == jax.devices()[0]
        ]
        assert sum(on_first) == printed["bytes"][name]
        logits = make_eval_step(mesh)(state, {"image": batch(99)["image"]})["logits"]
        printed["logits"][name] = np.asarray(logits).tolist()
        assert isinstance(state.model, Net)

    mesh = mesh_of(MESHES["data 2, fsdp 2"])
    adam, _ = train(mesh, make_optimizer("adamw", 1e-3), steps=2)
    slots = jax.tree.leaves(adam.opt_state.moments)
    shaped = [slot.sharding.spec for slot in slots if slot.shape == (64, 128)]
    assert shaped == [adam.params["fc1.kernel"].sharding.spec] * 2 == [PartitionSpec(None, "fsdp")] * 2
    # A checkpoint goes on on another mesh, of fewer devices.
    fewer = mesh_of(MESHES["data 2"])
    checkpoints = Checkpoints(Path(output).parent / "checkpoints")
    checkpoints.save(2, adam, {})
    checkpoints.wait()
    restored = checkpoints.restore(2, TrainState.create(net(), make_optimizer("adamw", 1e-3), seed=7, mesh=fewer))
    checkpoints.close()
    for found, expected in zip(jax.tree.leaves(restored.opt_state), jax.tree.leaves(adam.opt_state), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.sharding.device_set == {*fewer.devices.flat}
    (there, told), (here, expected) = (
        make_train_step(mesh=where)(state, batch(2)) for where, state in ((fewer, restored), (mesh, adam))
    )
    np.testing.assert_allclose(told["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(there.params["head.kernel"], here.params["head.kernel"], atol=1e-5)
    adam = here
    # Shapes alone tell the same bytes, with nothing allocated.
    abstract = TrainState.create(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), make_optimizer("adamw", 1e-3), mesh=mesh)
    assert {type(leaf) for leaf in jax.tree.leaves(abstract.params)} == {jax.ShapeDtypeStruct}
    assert bytes_per_device((abstract.params, abstract.opt_state)) == bytes_per_device((adam.params, adam.opt_state))
    # A rule of the user holds as it stands; a state that is not on the mesh is laid out by the step.
    own = TrainState.create(
        net(), make_optimizer("adamw", 1e-3), mesh=mesh, rules=[(r"^fc1\.kernel$", ()), ("patch", ("data",))]
    )
    assert own.params["fc1.kernel"].sharding.is_fully_replicated
    assert own.params["patch.kernel"].sharding.spec == PartitionSpec("data")
    late, _ = make_train_step(mesh=mesh)(TrainState.create(net(), make_optimizer("adamw", 1e-3)), batch(0))
    assert late.params["fc1.kernel"].sharding.spec == PartitionSpec(None, "fsdp")
    # The model that a state was made of stays usable.
    model = net()
    sharded = TrainState.create(model, make_optimizer("sgd", 0.05), mesh=mesh)
    again = TrainState.create(sharded.model, make_optimizer("sgd", 0.05), mesh=mesh)
    make_train_step(mesh=mesh)(again, batch(0))
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((nnx.state(model), sharded.params)))

    options = {"steps": 8, "batch_norm": False}
    _, printed["whole"] = train(None, make_optimizer("sgd", 0.1), **options)
    _, printed["in parts"] = train(mesh, make_optimizer("sgd", 0.1), accumulate=4, **options)
    Path(output).write_text(json.dumps(printed))


if __name__ == "__main__":
    main(sys.argv[1])
