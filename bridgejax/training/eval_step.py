"""The jitted evaluation step, and a classifier's metrics over batches of images."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from bridgejax.compilation import compiler_options
from bridgejax.data import Batch as StreamBatch
from bridgejax.errors import UserError
from bridgejax.evaluation import ClassificationMetrics, classification_metrics
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.mesh import context_of, data_sharding, local_rows, replicated
from bridgejax.models.classifier import Classifier
from bridgejax.training import batches, traced
from bridgejax.training.batches import Array
from bridgejax.training.objectives import cross_entropy, masked_mean
from bridgejax.training.objectives.base import logits_of
from bridgejax.training.state import Arrays, Structure, TrainState, on_mesh
from bridgejax.training.train_step import check_mesh

# Batches that may wait on the device, so that it never waits for the host, and a large set still does not fill it.
_AHEAD = 32


class EvalStep:
    """`metrics = step(state_or_model, batch)`; see `make_eval_step`."""

    def __init__(self, mesh: Mesh | None, dtype: str, features: bool) -> None:
        self._mesh = mesh
        self._jitted = _eval_program(mesh, dtype, features)

    @under_jax_defaults
    def __call__(self, state: TrainState | nnx.Module, batch: object) -> dict[str, jax.Array]:
        parts = batches.checked_batch(batch, ("image",), ("label", "mask"))
        if isinstance(state, TrainState):
            state.check_alive()
            structure, arrays = state.structure, state.arrays
        elif not isinstance(state, nnx.Module):
            raise UserError(f"the state is a {type(state).__name__}; give a TrainState or a model.")
        else:
            structure, arrays, _, _ = Structure.of(state)
        with context_of(self._mesh):
            placed = batches.place(parts, self._mesh)
            if self._mesh is not None:
                arrays = on_mesh(arrays, self._mesh)
            metrics = self._jitted(structure, arrays, placed)
        if "label" in parts and "logits" in metrics and not isinstance(parts["label"], jax.Array):
            batches.check_labels(parts, metrics["logits"].shape[-1])
        return metrics


def make_eval_step(mesh: Mesh | None = None, dtype: object = None, *, features: bool = False) -> EvalStep:
    """Returns `step(state, batch) -> metrics`: jitted, in evaluation mode (running statistics, no dropout).

    `state` is a `TrainState`, which stays usable, or a model. The batch is that of `make_train_step`; "label" may be missing.

    The metrics: "logits" (float32 [n, classes], padding rows included), and with labels "loss" (nats) and "accuracy"
    (masked means), "correct" (float32 [n], 0 on padding) and "count" (the sum of the mask).

    Args:
      mesh: the device mesh, or None.
      dtype: what the network computes in, as in `make_train_step`.
      features: the one metric is "features" instead, float32 [n, d]: what the head of a `Classifier` sees.

    Raises:
      UserError: as in `make_train_step`.
    """
    check_mesh(mesh)
    return EvalStep(mesh, traced.checked_dtype(dtype), features)


@functools.cache
def _eval_program(mesh: Mesh | None, dtype: str, features: bool) -> Callable[[Structure, Arrays, Arrays], dict[str, jax.Array]]:
    def step(structure: Structure, arrays: Arrays, batch: Arrays) -> dict[str, jax.Array]:
        model = structure.merge(arrays)
        images = batches.normalise(batch["image"], model)
        model.eval()
        with traced.compute_in(model, dtype):
            if features:
                return {"features": cast(Classifier, model).features(traced.lowered(images, dtype))}
            logits = logits_of(model, traced.lowered(images, dtype))
        metrics = {"logits": logits}
        if "label" in batch:
            label, mask = batch["label"], batch.get("mask")
            targets = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
            correct = (logits.argmax(-1) == label).astype(jnp.float32)
            metrics["loss"] = masked_mean(cross_entropy(logits, targets), mask)
            metrics["accuracy"] = masked_mean(correct, mask)
            metrics["correct"] = correct if mask is None else correct * (mask > 0)
            metrics["count"] = jnp.float32(label.shape[0]) if mask is None else jnp.sum(mask.astype(jnp.float32))
        return metrics

    options = compiler_options(reduces=True)
    if mesh is None:
        return jax.jit(step, static_argnums=0, compiler_options=options)
    everywhere, split = replicated(mesh), data_sharding(mesh)
    # The arrays lie on the mesh as a state of training does.
    return jax.jit(step, static_argnums=0, compiler_options=options, in_shardings=(None, split), out_shardings=everywhere)


@under_jax_defaults
def evaluate(
    state: TrainState | nnx.Module, batches: Iterable[StreamBatch], *, mesh: Mesh | None = None, dtype: object = None
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

    def logits_on_device(batch: StreamBatch) -> jax.Array:
        count = len(batch["label"])
        rows = local_rows(mesh, count)
        own = {key: value[rows] for key, value in cast(Mapping[str, Array], batch).items()}
        return step(state, batch if rows == slice(0, count) else own)["logits"]

    waiting: deque[tuple[jax.Array, StreamBatch]] = deque()
    logits: list[np.ndarray] = []
    labels: list[np.ndarray] = []

    def fetch() -> None:
        on_device, batch = waiting.popleft()
        label, mask = np.asarray(batch["label"]), batch.get("mask")
        counted = np.ones(len(label), bool) if mask is None else np.asarray(mask) > 0
        logits.append(np.asarray(on_device)[counted])
        labels.append(label[counted])

    for batch in batches:
        waiting.append((logits_on_device(batch), batch))
        if len(waiting) > _AHEAD:
            fetch()
    while waiting:
        fetch()
    if not sum(map(len, labels)):
        raise UserError("there are no examples to evaluate on; give a test part with at least one image.")
    return classification_metrics(np.concatenate(labels), np.concatenate(logits))
