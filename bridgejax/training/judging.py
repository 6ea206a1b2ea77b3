"""Judges a classifier on batches of images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from bridgejax.errors import UserError
from bridgejax.evaluation import classification_metrics
from bridgejax.mesh import local_rows
from bridgejax.training.state import TrainState
from bridgejax.training.steps import make_eval_step


def evaluate(
    state: TrainState | nnx.Module,
    batches: Iterable[dict[str, Any]],
    *,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Returns `classification_metrics` of a state or model over batches of equal shape; rows of mask 0 are left out.

    Args:
      state: a `TrainState` or a model.
      batches: dicts as for `make_eval_step`, with labels; at least one. Each process gives whole batches.
      mesh: the device mesh.

    Raises:
      UserError: there is no example, or a batch is wrong.
    """
    step = make_eval_step(mesh)

    def logits_of(batch: dict[str, Any]) -> jax.Array:
        rows = local_rows(mesh, len(batch["label"]))
        whole = rows == slice(0, len(batch["label"]))
        return step(state, batch if whole else {key: value[rows] for key, value in batch.items()})["logits"]

    # Dispatch all, then fetch: the device never waits for the host in between.
    results = [(logits_of(batch), batch["label"], batch.get("mask")) for batch in batches]
    logits, labels = [], []
    for found, label, mask in results:
        kept = np.ones(len(label), bool) if mask is None else np.asarray(mask) > 0
        logits.append(np.asarray(found)[kept])
        labels.append(np.asarray(label)[kept])
    if not sum(map(len, labels)):
        raise UserError("there are no examples to evaluate on; give a test part with at least one image.")
    return classification_metrics(np.concatenate(labels), np.concatenate(logits))
