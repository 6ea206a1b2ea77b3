"""Trains the small autoencoder (diffusers' AutoencoderKL layout) that turns 64×64 pictures into 8×8×4 latents.

Source of the objective: Rombach et al. 2022 (arXiv:2112.10752), section 3.1, without the adversarial part: absolute error of
pixels, of their differences and of 4×4 means, a perceptual term, and a small Kullback-Leibler term. Without the perceptual
term the pictures were so blurred that classifiers that learned from them lost 20 of 74 points on photographs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clipart_state import load_state, log, save_state
from flax import nnx

from bridgejax.models import load_classifier
from bridgejax.models.vae import AutoencoderKL

CONFIG: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.42.1",
    "act_fn": "silu",
    "block_out_channels": [16, 32, 64, 96],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "mid_block_add_attention": False,
    "norm_num_groups": 8,
    "out_channels": 3,
    "sample_size": 64,
    "scaling_factor": 1.0,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def augment(images: jax.Array, key: jax.Array) -> jax.Array:
    """Flips, shifts by up to 4 px (white comes in) and swaps colour channels of float32 [n, 64, 64, 3] in [-1, 1]."""
    flip_key, shift_key, swap_key, order_key = jax.random.split(key, 4)
    batch, size = images.shape[0], images.shape[1]
    images = jnp.where(jax.random.bernoulli(flip_key, 0.5, (batch, 1, 1, 1)), images[:, :, ::-1], images)
    padded = jnp.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), constant_values=1.0)
    corners = jax.random.randint(shift_key, (batch, 2), 0, 9)
    shifted = jax.vmap(lambda x, c: jax.lax.dynamic_slice(x, (c[0], c[1], 0), (size, size, 3)))(padded, corners)
    orders = jax.vmap(lambda k: jax.random.permutation(k, 3))(jax.random.split(order_key, batch))
    swapped = jax.vmap(lambda x, order: x[..., order])(shifted, orders)
    return jnp.where(jax.random.bernoulli(swap_key, 0.1, (batch, 1, 1, 1)), swapped, shifted)


def reconstruction_loss(output: jax.Array, target: jax.Array) -> jax.Array:
    """Mean absolute error of pixels, neighbour differences, 4×4 means, and colour apart from brightness; a scalar.

    Without the last part grey pictures are a plateau on which training rests for thousands of steps.
    """
    error = output - target
    edges = jnp.abs(error[:, 1:] - error[:, :-1]).mean() + jnp.abs(error[:, :, 1:] - error[:, :, :-1]).mean()
    n, h, w, c = error.shape
    coarse = error.reshape(n, h // 4, 4, w // 4, 4, c).mean((2, 4))
    hue = coarse - coarse.mean(-1, keepdims=True)
    return (
        jnp.abs(error).mean() + 0.5 * edges + 0.5 * jnp.abs(coarse).mean() + jnp.abs(hue).mean() + 4.0 * jnp.square(hue).mean()
    )


PERCEPTUAL_WEIGHT = 0.5
PERCEPTUAL = (1, 3, 5, 11)  # blocks of EfficientNet-Lite0 whose outputs are compared: 1/2, 1/4, 1/8 and 1/16 of its input


class PerceptualLoss:
    """Distance of two batches in the unit-normalised feature maps of frozen EfficientNet-Lite0 (as LPIPS, Zhang et al. 2018,
    arXiv:1801.03924, without learned weights)."""

    def __init__(self) -> None:
        model = load_classifier("builtin:efficientnet_lite0")
        model.eval()
        self.graph, self.state = nnx.split(model)
        preprocessing = model.preprocessing
        self.mean = jnp.asarray(preprocessing.mean, jnp.float32)
        self.deviation = jnp.asarray(preprocessing.std, jnp.float32)

    def __call__(self, state: Any, output: jax.Array, target: jax.Array) -> jax.Array:
        """A scalar, for images float32 [n, h, w, 3] in [-1, 1]; ``state`` is ``self.state``, an argument of the jitted step."""
        model = nnx.merge(self.graph, state)
        n = output.shape[0]
        x = (jnp.concatenate([output, target]) * 0.5 + 0.5 - self.mean) / self.deviation
        x = jnp.clip(model.bn0(model.conv_stem(x)), 0.0, 6.0)
        total = jnp.zeros(())
        for number, block in enumerate(model.blocks[: PERCEPTUAL[-1] + 1]):
            x = block(x)
            if number in PERCEPTUAL:
                unit = x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)
                total += jnp.square(unit[:n] - unit[n:]).sum(-1).mean()
        return total / len(PERCEPTUAL)


def train_vae(
    data: Mapping[str, np.ndarray],
    work: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    first: Any = None,
) -> None:
    """Trains to ``work/vae.npz`` (resumable) from ``first`` or random parameters, with moving-average weights.

    Half of each batch are labelled pictures, half are of the pool.

    The learning rate warms up over 2 % of the steps and falls to zero along a cosine.
    """
    model = nnx.eval_shape(lambda: AutoencoderKL(CONFIG, rngs=nnx.Rngs(seed)))
    graph = nnx.split(model)[0]
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, max(steps // 50, 1), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b1=0.9, b2=0.99, weight_decay=1e-4))

    @jax.jit
    def start() -> dict[str, Any]:
        params = nnx.split(AutoencoderKL(CONFIG, rngs=nnx.Rngs(seed)))[1] if first is None else first
        return {"params": params, "ema": params, "opt": optimizer.init(params), "step": jnp.zeros((), jnp.int32)}

    perceptual = PerceptualLoss()

    def loss_of(params: Any, images: jax.Array, key: jax.Array, lite0: Any) -> jax.Array:
        vae = nnx.merge(graph, params)
        mean, log_variance = vae.encode(images)
        latents = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        divergence = 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance).mean()
        decoded = vae.decode(latents)
        distance = perceptual(lite0, decoded, images)
        return reconstruction_loss(decoded, images) + PERCEPTUAL_WEIGHT * distance + 2e-4 * divergence

    def one_step(state: dict[str, Any], pixels: jax.Array, lite0: Any) -> tuple[dict[str, Any], jax.Array]:
        augment_key, sample_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state["step"]))
        images = augment(pixels.astype(jnp.float32) / 127.5 - 1.0, augment_key)
        loss, gradients = jax.value_and_grad(loss_of)(state["params"], images, sample_key, lite0)
        updates, opt = optimizer.update(gradients, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        decay = jnp.minimum(0.999, (1.0 + state["step"]) / (10.0 + state["step"]))
        ema = jax.tree.map(lambda e, p: e * decay + p * (1 - decay), state["ema"], params)
        return {"params": params, "ema": ema, "opt": opt, "step": state["step"] + 1}, loss

    step_function = jax.jit(one_step, donate_argnums=0)
    path = work / "vae.npz"
    state = load_state(path, jax.eval_shape(start)) or start()
    labelled, pool = data["images"], data["pool"]
    position, started = int(state["step"]), time.time()
    first = position
    while position < steps:
        rng = np.random.default_rng((seed, position))
        half = batch_size // 2
        batch = np.concatenate(
            [labelled[rng.integers(len(labelled), size=half)], pool[rng.integers(len(pool), size=batch_size - half)]]
        )
        state, loss = step_function(state, batch, perceptual.state)
        position += 1
        if position % 100 == 0 or position == steps:
            log(
                f"vae step {position}/{steps} loss {float(loss):.4f} {(position - first) / (time.time() - started):.2f} steps/s"
            )
        if position % 250 == 0 or position == steps:
            save_state(path, state)


def train_decoder(
    data: Mapping[str, np.ndarray], work: Path, *, steps: int, batch_size: int, learning_rate: float, seed: int
) -> None:
    """Trains the decoder further on the labelled pictures to ``work/decoder.npz`` (resumable).

    The encoder rests: its parameters get no gradient, so latents and scaling factor stay what they are. A little noise on the
    latents stands for the errors of generated ones.
    """
    graph, first = nnx.split(load_vae(work, seed, refined=False))
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps), b1=0.9, b2=0.99)

    @jax.jit
    def start(params: Any) -> dict[str, Any]:
        return {"params": params, "ema": params, "opt": optimizer.init(params), "step": jnp.zeros((), jnp.int32)}

    encode = jax.jit(lambda params, x: nnx.merge(graph, params).encode(x)[0])

    perceptual = PerceptualLoss()

    def loss_of(params: Any, latents: jax.Array, images: jax.Array, lite0: Any) -> jax.Array:
        decoded = nnx.merge(graph, params).decode(latents)
        return reconstruction_loss(decoded, images) + PERCEPTUAL_WEIGHT * perceptual(lite0, decoded, images)

    def one_step(state: dict[str, Any], images: jax.Array, latents: jax.Array, lite0: Any) -> tuple[dict[str, Any], jax.Array]:
        noise = 0.08 * jax.random.normal(jax.random.fold_in(jax.random.key(seed), state["step"]), latents.shape)
        loss, gradients = jax.value_and_grad(loss_of)(state["params"], latents + noise, images, lite0)
        updates, opt = optimizer.update(gradients, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        decay = jnp.minimum(0.995, (1.0 + state["step"]) / (10.0 + state["step"]))
        ema = jax.tree.map(lambda e, p: e * decay + p * (1 - decay), state["ema"], params)
        return {"params": params, "ema": ema, "opt": opt, "step": state["step"] + 1}, loss

    step_function = jax.jit(one_step, donate_argnums=0)
    path = work / "decoder.npz"
    # A copy, because the step donates its state and the encoder's first parameters are still needed.
    state = load_state(path, jax.eval_shape(start, first)) or start(jax.tree.map(jnp.copy, first))
    position = int(state["step"])
    losses: list[float] = []
    while position < steps:
        rng = np.random.default_rng((seed, 1, position))
        chosen = data["images"][rng.integers(len(data["images"]), size=batch_size)]
        mirrored = np.where(rng.random((batch_size, 1, 1, 1)) < 0.5, chosen[:, :, ::-1], chosen)
        images = jnp.asarray(mirrored, jnp.float32) / 127.5 - 1.0
        state, loss = step_function(state, images, encode(first, images), perceptual.state)
        position += 1
        losses.append(float(loss))
        if position % 100 == 0 or position == steps:
            log(f"decoder step {position}/{steps} loss {np.mean(losses):.4f}")
            losses = []
        if position % 250 == 0 or position == steps:
            save_state(path, state)


def load_vae(work: Path, seed: int = 0, refined: bool = True) -> AutoencoderKL:
    """Returns the autoencoder with moving-average weights (scaling factor not set): those of ``work/decoder.npz`` if there is
    one and ``refined``, else those of ``work/vae.npz``."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: AutoencoderKL(CONFIG, rngs=nnx.Rngs(seed))))
    path = work / "decoder.npz"
    if not (refined and path.is_file()):
        path = work / "vae.npz"
    params = load_state(path, {"ema": abstract}, partial=True)
    if params is None:
        raise SystemExit(f"{path}: no trained autoencoder; run the vae part first")
    return nnx.merge(graph, params["ema"])
