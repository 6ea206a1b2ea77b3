"""Momentum contrast (He et al. 2020, arXiv 1911.05722; version 2: Chen et al. 2020, arXiv 2003.04297)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bridgejax.errors import UserError
from bridgejax.training import batches
from bridgejax.training.objectives import views
from bridgejax.training.objectives.base import Mix, NamedArrays, Objective, ObjectiveState, masked_mean, static
from bridgejax.training.option_checks import check_number

HEAD = "head.out.bias"  # of a `bridgejax.models.projection_head.ProjectionHead`


@dataclasses.dataclass(frozen=True)
class MoCo(Objective):
    """-log softmax(q·[k, queue]ᵀ / τ) of the first: the query of one view of an image finds the key of its other view.

    Queries and keys are the unit outputs of a projection head. Keys come from a second network, whose parameters are a moving
    average of the trained ones, and wait in a queue for later steps to tell theirs from. Of the batches "image" is one view,
    "view" the other.

    Batch norms take statistics over parts of the batch, in which keys are put in another order than queries ("shuffled batch
    norm"): otherwise the statistics they share would tell which key is whose. The parts are `norm_groups` stretches of rows,
    whatever the number of devices, so that this does not change results; a multiple of the devices keeps each on one of them.
    The running statistics are those of the queries, the mean over the parts.

    Attributes:
      contrast_temperature: τ > 0.
      recolour: strength in [0, 1] of what `views.recoloured` does to either view.
      key_momentum: m in [0, 1): after a step, key parameters = m · key parameters + (1 - m) · trained parameters.
      queue_size: keys in the queue, a multiple of the batch. It starts as unit noise, the same for every run.
      norm_groups: parts of a batch, which they divide, for batch norms.
    """

    required = ("image", "view")
    contrast_temperature: float = 0.2
    recolour: float = 1.0
    key_momentum: float = 0.999
    queue_size: int = static(65536)
    norm_groups: int = static(8)

    def check(self) -> None:
        check_number("contrast_temperature", self.contrast_temperature, above_zero=True)
        check_number("recolour", self.recolour, most=1)
        check_number("key_momentum", self.key_momentum, most=1)

    def init(self, params: NamedArrays) -> ObjectiveState:
        """Returns the key parameters, the queue, float32 [K, width], and the count of steps.

        Raises:
          UserError: no projection head is among the parameters that train.
        """
        if HEAD not in params:
            raise UserError(f"moco trains a projection head, but {HEAD} does not train; let trainable name the head too.")
        noise = jax.random.normal(jax.random.key(0), (self.queue_size, params[HEAD].shape[0]))
        copies = {name: jnp.array(value, copy=True) for name, value in params.items()}
        return {"keys": copies, "queue": _unit(noise), "count": jnp.zeros((), jnp.int32)}

    def companion(self, state: ObjectiveState) -> NamedArrays:
        return state["keys"]

    def outputs(
        self, model: nnx.Module, images: jax.Array, batch: NamedArrays, state: ObjectiveState, companion: nnx.Module | None
    ) -> jax.Array:
        """Returns queries and keys, float32 [n, 2 · width], unit vectors each.

        Raises:
          UserError: the batch has a mask, or does not split as the options say.
        """
        rows = images.shape[0]
        for name, value, whole in (("norm_groups", self.norm_groups, rows), ("batch size", rows, self.queue_size)):
            if whole % value:
                raise UserError(
                    f"moco's {name} is {value}, which does not divide "
                    + (f"the batch of {rows}; choose another." if whole is rows else f"queue_size, {whole}; choose another.")
                )
        if batch.get("mask") is not None or companion is None:
            raise UserError("moco takes every image alike; leave out the mask, or synthetic_loss.")
        draws = jax.random.split(jax.random.fold_in(jax.random.key(1), state["count"]), 3)
        order = jax.random.permutation(draws[0], rows)
        images = self._recoloured(draws[1], images, model)
        view = self._recoloured(draws[2], batches.normalise(batch["view"], model).astype(images.dtype), model)
        keys = jnp.zeros_like(order).at[order].set(jnp.arange(rows, dtype=order.dtype))
        found = _by_parts(companion, view[order], self.norm_groups)[keys]
        return jnp.concatenate([_by_parts(model, images, self.norm_groups), lax.stop_gradient(found)], -1)

    def _recoloured(self, key: jax.Array, images: jax.Array, model: nnx.Module) -> jax.Array:
        """Returns normalised images with their pixels recoloured."""
        mean, std = batches.mean_and_std(model, "moco recolours pixels", "that tells them; add one.")
        pixels = views.recoloured(key, images.astype(jnp.float32) * std + mean, self.recolour)
        return ((pixels - mean) / std).astype(images.dtype)

    def losses(self, outputs: jax.Array, batch: NamedArrays, mix: Mix, state: ObjectiveState) -> jax.Array:
        own, others = _similarities(outputs, state)
        return jax.nn.logsumexp(jnp.concatenate([own, others], -1) / self.contrast_temperature, -1) - (
            own[:, 0] / self.contrast_temperature
        )

    def metrics(self, outputs: jax.Array, batch: NamedArrays, state: ObjectiveState) -> dict[str, jax.Array]:
        """Returns "accuracy": how often an image's own key is the most similar."""
        own, others = _similarities(outputs, state)
        return {"accuracy": masked_mean((own[:, 0] > others.max(-1)).astype(jnp.float32), None)}

    def update(self, state: ObjectiveState, outputs: jax.Array, batch: NamedArrays, params: NamedArrays) -> ObjectiveState:
        queue, keys = state["queue"], jnp.split(outputs, 2, -1)[1]
        m, place = self.key_momentum, state["count"] * keys.shape[0] % queue.shape[0]
        return {
            "keys": {name: m * value + (1 - m) * params[name] for name, value in state["keys"].items()},
            "queue": lax.dynamic_update_slice(queue, keys, (place, 0)),
            "count": state["count"] + 1,
        }


def _similarities(outputs: jax.Array, state: ObjectiveState) -> tuple[jax.Array, jax.Array]:
    """Returns the cosines of each query with its own key, [n, 1], and with those of the queue, [n, K]."""
    queries, keys = jnp.split(outputs, 2, -1)
    return jnp.sum(queries * keys, -1, keepdims=True), queries @ state["queue"].T


def _unit(rows: jax.Array) -> jax.Array:
    wide = rows.astype(jnp.float32)
    return wide / jnp.maximum(jnp.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)


def _by_parts(model: nnx.Module, images: jax.Array, parts: int) -> jax.Array:
    """Returns a model's outputs, unit rows, float32 [n, width]; batch norms see one of `parts` stretches of rows at a time.

    What the call leaves in the model are the means over the parts of its statistics.
    """
    graph, state = nnx.split(model)

    def call(part: jax.Array) -> tuple[jax.Array, nnx.State, nnx.State]:
        copy: nnx.Module = nnx.merge(graph, state, copy=True)  # variables of this trace
        outputs = copy(part)
        return outputs, nnx.state(copy, nnx.BatchStat), nnx.state(copy, nnx.RngCount)

    outputs, statistics, counts = jax.vmap(call)(images.reshape(parts, -1, *images.shape[1:]))
    nnx.update(model, jax.tree.map(lambda x: x.mean(0), statistics), jax.tree.map(lambda x: x[0], counts))
    return _unit(outputs.reshape(images.shape[0], -1))
