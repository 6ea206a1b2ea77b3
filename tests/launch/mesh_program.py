"""Samples without a mesh and on meshes of eight virtual devices; prints the largest differences and each device's bytes."""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
from flax import nnx

from bridgejax.diffusion import load_pipeline
from bridgejax.mesh import bytes_per_device, make_mesh

MESHES = ([("data", 8)], [("data", 4), ("model", 2)], [("data", 2), ("model", 4)])


def main(folder: str) -> None:
    assert jax.device_count() == 8
    prompts, seeds = [f"a photo of a {word}" for word in ["cat", "dog", "fish", "hat", "bee", "cup"]], [3, 1, 4, 1, 5, 9]

    def sample(pipe):
        return np.asarray(pipe(prompts, seeds, steps=3, guidance_scale=3.0))

    plain = load_pipeline(folder)
    expected = sample(plain)
    whole = bytes_per_device(nnx.state(plain.networks))
    printed = {"whole": whole, "spread": float(expected.std()), "meshes": []}
    for axes in MESHES:
        pipe = load_pipeline(folder, mesh=make_mesh(axes))
        difference = float(np.abs(sample(pipe) - expected).max())
        state = nnx.state(pipe.networks)
        on_first = sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(state)
            for shard in leaf.addressable_shards
            if shard.device == jax.devices()[0]
        )
        hidden, expected_hidden = (np.asarray(each.encode_prompts(prompts[:2])[0]) for each in (pipe, plain))
        printed["meshes"].append(
            {
                "difference": difference,
                "hidden_difference": float(np.abs(hidden - expected_hidden).max()),
                "bytes": on_first,
                "computed_bytes": bytes_per_device(state),
            }
        )
    replicated = load_pipeline(folder, mesh=make_mesh(MESHES[2]), mesh_rules=[("", ())])
    printed["own_rules"] = bytes_per_device(nnx.state(replicated.networks))
    print(json.dumps(printed))


if __name__ == "__main__":
    main(sys.argv[1])
