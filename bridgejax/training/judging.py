"""Judges a classifier on batches of images."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from bridgejax.errors import UserError
from bridgejax.evaluation import ClassificationMetrics, classification_metrics
from bridgejax.mesh import local_rows
from bridgejax.training.state import TrainState
from bridgejax.training.steps import make_eval_step

# Batches that may wait on the device, so that it never waits for the host, and a large set still does not fill it.
_AHEAD = 32


def evaluate(
    state: TrainState | nnx.Module,
    batches: Iterable[dict[str, Any]],
    *,
    mesh: Mesh | None = None,
    dtype: Any = None,
) -> ClassificationMetrics:
    """Returns `classification_metrics` of a state or model over batches of equal shape; rows of mask 0 are left out.

    Args:
      state: a `TrainState` or a model.
      batches: dicts as for `make_eval_step`, with labels; at least one. Each process gives whole batches.
      mesh: the device mesh.
      dtype: what the network computes in, as in `make_eval_step`.

    Raises:
      UserError: there is no example, or a batch is wrong.
    """
    step = make_eval_step(mesh, dtype)

    def logits_of(batch: dict[str, Any]) -> jax.Array:
        rows = local_rows(mesh, len(batch["label"]))
        whole = rows == slice(0, len(batch["label"]))
        return step(state, batch if whole else {key: value[rows] for key, value in batch.items()})["logits"]

    waiting: deque[tuple[jax.Array, Any, Any]] = deque()
    logits: list[np.ndarray] = []
    labels: list[np.ndarray] = []

    def fetch() -> None:
        found, label, mask = waiting.popleft()
        kept = np.ones(len(label), bool) if mask is None else np.asarray(mask) > 0
        logits.append(np.asarray(found)[kept])
        labels.append(np.asarray(label)[kept])

    for batch in batches:
        waiting.append((logits_of(batch), batch["label"], batch.get("mask")))
        if len(waiting) > _AHEAD:
            fetch()
    while waiting:
        fetch()
    if not sum(map(len, labels)):
        raise UserError("there are no examples to evaluate on; give a test part with at least one image.")
    return classification_metrics(np.concatenate(labels), np.concatenate(logits))
