"""Augments images and draws a cut on one, two and four virtual devices; prints digests of both."""

from __future__ import annotations

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from training_fixtures import TinyNet

from bridgejax.mesh import data_sharding, make_mesh
from bridgejax.training.augmentation import Augmentation, augmented
from bridgejax.training.mixing import MixRule, draw_program


def digest(tree: object) -> str:
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(tree))).hexdigest()


def main() -> None:
    how = Augmentation(erasing=0.6, randaugment=9.0)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3)).astype(np.uint8)
    model = nnx.jit(lambda: TinyNet(nnx.Rngs(0)))()
    found = []
    for count in (1, 2, 4):
        mesh = make_mesh((("data", count),), jax.devices()[:count])
        split = data_sharding(mesh)
        rows, images = (jax.device_put(x, split) for x in (np.arange(8, dtype=np.int32), pixels))
        program = jax.jit(lambda key, rows, images: augmented(key, rows, images, model, how))
        draw = draw_program(8, mesh, 1, (12, 12))(jax.random.key(0), jnp.int32(3), MixRule(0.8, 1.0), None)
        found.append({"images": digest(program(jax.random.key(5), rows, images)), "draw": digest(draw)})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
