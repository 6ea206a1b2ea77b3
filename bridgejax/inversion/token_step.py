"""Tokens learned from images: the jitted step that trains nothing but rows of a token table.

Source: Gal et al. 2022 (arXiv:2208.01618), equation 2, and for one token per data set Li et al. 2024 (arXiv:2403.19866). The
draws (posterior sample, uniform timestep, noise), the loss and the update (AdamW) are those of PyTorch diffusers' program for
textual inversion.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from bridgejax.diffusion.networks import Networks
from bridgejax.diffusion.pipeline import Pipeline
from bridgejax.diffusion.schedulers import make_scheduler
from bridgejax.errors import UserError
from bridgejax.mesh import data_sharding, data_size, local_rows, replicate, replicated, shard_batch
from bridgejax.models.clip_text import Words

BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 1e-2
_ADAM = optax.scale_by_adam(b1=BETAS[0], b2=BETAS[1], eps=EPSILON)
Rows = tuple[jax.Array, ...]  # float32 [k, width] for each text encoder: the vectors of a token


class TokenBatch(NamedTuple):
    """Images and prompts of a step, on the devices."""

    moments: jax.Array  # float32 [n, h, w, 2c] or [n, h, w, c], the autoencoder's posterior
    ids: tuple[jax.Array, ...]  # int32 [n, tokens] for each text encoder


class AdamWSettings(NamedTuple):
    """The hyperparameters of an update, which do not recompile it."""

    learning_rate: jax.Array | np.ndarray  # float32 scalar
    weight_decay: jax.Array | np.ndarray  # float32 scalar, decoupled, as in torch
    max_norms: jax.Array | np.ndarray  # float32 [encoders], the greatest length of a row; infinity means no bound


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InversionState:
    """All that the training of a token remembers."""

    rows: Rows  # the token's vectors
    moments: optax.OptState  # Adam's, over `rows`
    step: jax.Array  # int32 scalar, updates done
    key: jax.Array  # folded with the step for its draws

    @classmethod
    def create(cls, rows: Sequence[np.ndarray], seed: int) -> InversionState:
        """Returns the state before the first step; `seed` decides all draws."""
        arrays = tuple(jnp.asarray(array, jnp.float32) for array in rows)
        return cls(arrays, _ADAM.init(arrays), jnp.zeros((), jnp.int32), jax.random.key(seed))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns every number of the state as plain arrays, for a checkpoint."""
        leaves = jax.tree.leaves((self.rows, self.moments, self.step))
        arrays = {f"{number:02d}": np.asarray(leaf) for number, leaf in enumerate(leaves)}
        return {**arrays, "key": np.asarray(jax.random.key_data(self.key))}

    def from_arrays(self, arrays: dict[str, np.ndarray]) -> InversionState:
        """Returns the state that `to_arrays` gave, of the same shapes as this one.

        Raises:
          KeyError, ValueError: the arrays are of another state.
        """
        leaves, tree = jax.tree.flatten((self.rows, self.moments, self.step))
        stored = [np.asarray(arrays[f"{number:02d}"]) for number in range(len(leaves))]
        for old, new in zip(leaves, stored, strict=True):
            if old.shape != new.shape or old.dtype != new.dtype:
                raise ValueError(f"found {new.dtype}{list(new.shape)}, expected {old.dtype}{list(old.shape)}")
        rows, moments, step = jax.tree.unflatten(tree, [jnp.asarray(array) for array in stored])
        return InversionState(rows, moments, step, jax.random.wrap_key_data(jnp.asarray(arrays["key"])))


class Draws(NamedTuple):
    """What chance decides in a step."""

    latents: jax.Array  # float32 [n, h, w, c], a sample of the posterior times the scaling factor
    timesteps: jax.Array  # int32 [n], uniform over the training timesteps
    noise: jax.Array  # float32 [n, h, w, c], unit normal


def prediction_target(kind: str, latents: jax.Array, noise: jax.Array, alpha: jax.Array) -> jax.Array:
    """Returns what the UNet should predict at √ᾱ·latents + √(1-ᾱ)·noise.

    Args:
      kind: "epsilon", "v_prediction" (Salimans & Ho 2022, arXiv:2202.00512, appendix D) or "sample".
      latents: [n, h, w, c].
      noise: like `latents`.
      alpha: ᾱ of each, [n, 1, 1, 1].
    """
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return latents
    return jnp.sqrt(alpha) * noise - jnp.sqrt(1.0 - alpha) * latents


class Inversion:
    """The programs that learn tokens with one generator; every token and every step of one shape share a compilation.

    Attributes:
      pipeline: the generator, loaded with the token (`embeddings=`), so that tokenizers know it.
      batch_size: images per step.
      prediction: the scheduler's prediction type.
    """

    def __init__(self, pipeline: Pipeline, batch_size: int, mesh: Mesh | None = None) -> None:
        """Prepares the programs.

        Args:
          pipeline: a loaded generator.
          batch_size: images per step; with a mesh each batch is padded to a multiple of its "data" axis, unseen by the loss.
          mesh: devices to split batches over; None means the pipeline's.

        Raises:
          UserError: the folder's scheduler config is not usable.
        """
        self.pipeline = pipeline
        self.mesh = pipeline.mesh if mesh is None else mesh
        self.batch_size = batch_size
        description = pipeline.spec
        settings = make_scheduler(None, description.scheduler, description.scheduler_place).settings
        self.prediction = settings.prediction_type
        self._alphas = jnp.asarray(settings.alphas_cumulative(), jnp.float32)
        self._padding = -batch_size % data_size(self.mesh)
        graph, self._frozen = pipeline.split
        self._step, self._loss = _programs(graph, self.prediction, batch_size, self.mesh)
        whole = None if self.mesh is None else replicated(self.mesh)
        self._moments = jax.jit(lambda state, images: nnx.merge(graph, state).moments(images), out_shardings=whole)

    def moments(self, images: np.ndarray) -> np.ndarray:
        """Returns the posterior of images [n, h, w, 3] in [0, 1]: float32 [n, h/f, w/f, 2c], mean and log variance.

        An autoencoder without a posterior gives [n, h/f, w/f, c]. Batches of one shape, so one program.
        """
        size, count = self.batch_size + self._padding, len(images)
        parts = []
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            parts.append(np.asarray(self._moments(self._frozen, self._split(images[rows]))))
        return np.concatenate(parts)[:count]

    def place(self, moments: np.ndarray, ids: Sequence[np.ndarray]) -> TokenBatch:
        """Puts a batch on the devices.

        Args:
          moments: float32 [batch_size, h, w, 2c] or [batch_size, h, w, c].
          ids: int32 [batch_size, tokens] for each text encoder.
        """
        rows = np.minimum(np.arange(self.batch_size + self._padding), self.batch_size - 1)
        return TokenBatch(self._split(moments[rows]), tuple(self._split(part[rows]) for part in ids))

    def step(
        self,
        state: InversionState,
        batch: TokenBatch,
        first_ids: Sequence[int],
        learning_rate: float,
        weight_decay: float = WEIGHT_DECAY,
        max_norms: Sequence[float] | None = None,
    ) -> tuple[InversionState, jax.Array]:
        """Returns the state after one update and the loss before it (float32 scalar); the old state is donated.

        Args:
          state: the token's state.
          batch: of `place`.
          first_ids: the id of the token's first vector, for each text encoder.
          learning_rate: of AdamW.
          weight_decay: decoupled, as in torch.
          max_norms: the greatest length of a row, for each text encoder: a longer one is shortened to it after the update. None
            means no bound, as in diffusers.
        """
        bounds = np.full(len(state.rows), np.inf) if max_norms is None else max_norms
        adamw = AdamWSettings(*(np.asarray(value, np.float32) for value in (learning_rate, weight_decay, bounds)))
        return self._step(state, self._frozen, batch, np.asarray(first_ids, np.int32), self._alphas, adamw)

    def loss(self, rows: Sequence[jax.Array], batch: TokenBatch, first_ids: Sequence[int], seed: int) -> jax.Array:
        """Returns the loss (float32 scalar) under the draws of `seed`: the same for every value of the rows."""
        key = jax.random.key(seed)
        return self._loss(tuple(rows), self._frozen, batch, np.asarray(first_ids, np.int32), self._alphas, key)

    def put(self, state: InversionState) -> InversionState:
        """Returns the state with a copy on each device of the mesh."""
        return state if self.mesh is None else replicate(state, self.mesh)

    def _split(self, array: np.ndarray) -> jax.Array:
        if self.mesh is None:
            return jnp.asarray(array)
        return shard_batch(self.mesh, array[local_rows(self.mesh, self.batch_size + self._padding)])


def draw(key: jax.Array, moments: jax.Array, channels: int, scale: float, count: int, steps: int) -> Draws:
    """Returns the draws of a batch.

    Args:
      key: of the step.
      moments: [n, h, w, 2c], or [n, h, w, c] where the autoencoder has no posterior.
      channels: c.
      scale: the autoencoder's scaling factor.
      count: rows that count; those behind it (padding) get no noise, so that draws do not depend on padding.
      steps: of training the UNet.
    """
    sample_key, time_key, noise_key = jax.random.split(key, 3)
    behind = ((0, moments.shape[0] - count), (0, 0), (0, 0), (0, 0))
    shape = (count, *moments.shape[1:3], channels)

    def normal(normal_key: jax.Array) -> jax.Array:
        return jnp.pad(jax.random.normal(normal_key, shape, jnp.float32), behind)

    latents = moments[..., :channels]
    if moments.shape[-1] == 2 * channels:
        latents = latents + jnp.exp(0.5 * jnp.clip(moments[..., channels:], -30.0, 20.0)) * normal(sample_key)
    timesteps = jnp.pad(jax.random.randint(time_key, (count,), 0, steps), behind[:1])
    return Draws(latents * scale, timesteps, normal(noise_key))


def denoising_loss(
    networks: Networks, words: Sequence[Words], ids: Sequence[jax.Array], draws: Draws, alphas: jax.Array, kind: str
) -> jax.Array:
    """Returns each image's mean squared error of the UNet's prediction, float32 [n].

    Args:
      networks: of the generator.
      words: the token's rows, for each text encoder.
      ids: int32 [n, tokens] for each text encoder.
      draws: latents, timesteps and noise.
      alphas: ᾱ of every training timestep, float32.
      kind: the prediction type.
    """
    alpha = alphas[draws.timesteps].reshape(-1, 1, 1, 1)
    noisy = jnp.sqrt(alpha) * draws.latents + jnp.sqrt(1.0 - alpha) * draws.noise
    context, pooled = networks.encode_text(ids, words)
    height, width = (side * networks.vae.factor for side in draws.latents.shape[1:3])
    output = networks.predict(noisy, draws.timesteps, context, pooled, (height, width), None)
    return jnp.mean((output - prediction_target(kind, draws.latents, draws.noise, alpha)) ** 2, axis=(1, 2, 3))


_Step = Callable[
    [InversionState, nnx.State, TokenBatch, np.ndarray, jax.Array, AdamWSettings], tuple[InversionState, jax.Array]
]
_Loss = Callable[[Rows, nnx.State, TokenBatch, np.ndarray, jax.Array, jax.Array], jax.Array]


def _programs(graph: nnx.GraphDef, kind: str, count: int, mesh: Mesh | None) -> tuple[_Step, _Loss]:
    """Returns the jitted step and loss of a generator's graph."""

    def loss(
        rows: Rows, frozen: nnx.State, batch: TokenBatch, first_ids: jax.Array, alphas: jax.Array, key: jax.Array
    ) -> jax.Array:
        networks: Networks = nnx.merge(graph, frozen)
        vae = networks.vae
        draws = draw(key, batch.moments, vae.latent_channels, vae.scaling_factor, count, alphas.shape[0])
        if mesh is not None:
            draws = jax.lax.with_sharding_constraint(draws, data_sharding(mesh))
        words = [Words(first_ids[number], array) for number, array in enumerate(rows)]
        errors = denoising_loss(networks, words, batch.ids, draws, alphas, kind)
        return jnp.sum(jnp.where(jnp.arange(errors.shape[0]) < count, errors, 0.0)) / count

    def step(
        state: InversionState,
        frozen: nnx.State,
        batch: TokenBatch,
        first_ids: jax.Array,
        alphas: jax.Array,
        adamw: AdamWSettings,
    ) -> tuple[InversionState, jax.Array]:
        key = jax.random.fold_in(state.key, state.step)
        value, gradient = jax.value_and_grad(loss)(state.rows, frozen, batch, first_ids, alphas, key)
        rows, moments = adamw_update(state.rows, gradient, state.moments, adamw)
        done = InversionState(rows, moments, state.step + 1, state.key)
        return (done, value) if mesh is None else jax.lax.with_sharding_constraint((done, value), replicated(mesh))

    return jax.jit(step, donate_argnums=0), jax.jit(loss)


def adamw_update(rows: Rows, gradient: Rows, moments: optax.OptState, adamw: AdamWSettings) -> tuple[Rows, optax.OptState]:
    """Returns the rows and the moments after an update: torch's AdamW, then rows beyond the bound shortened to it."""
    changes, moments = _ADAM.update(gradient, moments)
    updated: Rows = jax.tree.map(
        lambda row, change: row - adamw.learning_rate * (change + adamw.weight_decay * row), rows, changes
    )
    return tuple(_shortened(row, bound) for row, bound in zip(updated, adamw.max_norms, strict=True)), moments


def _shortened(row: jax.Array, bound: jax.Array) -> jax.Array:
    """Returns the vectors [k, width], none of them longer than `bound`; shorter ones keep their bits."""
    lengths = jnp.linalg.norm(row, axis=-1, keepdims=True)
    return jnp.where(lengths > bound, row * (bound / lengths), row)


def first_ids(pipeline: Pipeline, token: str) -> list[int]:
    """Returns the id of a token's first vector for each text encoder.

    Raises:
      UserError: the pipeline was loaded without the token.
    """
    ids = [tokenizer.id_of(token) for tokenizer in pipeline.tokenizers]
    if any(number is None for number in ids):
        raise UserError(f"the generator does not know the token {token!r}; load it with embeddings={{{token!r}: FILE}}.")
    return [int(number) for number in ids if number is not None]
