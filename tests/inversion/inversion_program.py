"""Prints a word's vectors after two steps on all devices, and the same steps without a mesh."""

from __future__ import annotations

import json
import sys

import numpy as np

from bridgejax.diffusion import load_pipeline
from bridgejax.inversion.token_step import Inversion, InversionState, first_ids
from bridgejax.mesh import make_mesh


def learn(mesh):
    pipe = load_pipeline(sys.argv[1], mesh=mesh, embeddings={"<s>": sys.argv[2]})
    inversion = Inversion(pipe, batch_size=6)
    images = np.random.default_rng(0).random((6, 16, 16, 3), np.float32)
    ids = [tokenizer(["a <s> thing"] * 6) for tokenizer in pipe.tokenizers]
    table = pipe.networks.text_encoders[0].embeddings.token_embedding.embedding[...]
    firsts = first_ids(pipe, "<s>")
    state = inversion.put(InversionState.create([np.asarray(table)[firsts[0] : firsts[0] + 2]], 1))
    moments = inversion.moments(images)
    for _ in range(2):
        state, _ = inversion.step(state, inversion.place(moments, ids), firsts, 0.01)
    print(json.dumps(np.asarray(state.rows[0]).tolist()))


if __name__ == "__main__":
    learn(make_mesh())
    learn(None)
