"""Trains the UNet of the tiny generator on cached latents, with the text encoder that ``clipart_text`` made.

Objective: velocity prediction (Salimans & Ho 2022, arXiv:2202.00512) on the cosine schedule, unweighted, with captions dropped
for classifier-free guidance. Two things matter here, as measured: the text reaches every residual block through the time
embedding (``addition_embed_type: text``), because by cross-attention at 4×4 alone the UNet learned to do without it; and the
text encoder rests, because one that learned along fell silent (its outputs' spread fell from 2.0 to 0.4 in 500 steps).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clipart_captions import MAX_TOKENS, Tokenizer, caption_choices, colours_of, sentence_choices
from clipart_state import load_state, log, save_state
from flax import nnx

from bridgejax.models.clip_text import CLIPTextModel
from bridgejax.models.unet import UNet2DCondition
from bridgejax.models.vae import AutoencoderKL

TRAIN_TIMESTEPS = 1000
UNCONDITIONAL = 0.1  # share of captions dropped

UNET_CONFIG: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.42.1",
    "act_fn": "silu",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "attention_head_dim": 4,
    "block_out_channels": [128, 160],
    "center_input_sample": False,
    "cross_attention_dim": 128,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 8,
    "out_channels": 4,
    "sample_size": 8,
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
TEXT_CONFIG: dict[str, Any] = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "attention_dropout": 0.0,
    "hidden_act": "quick_gelu",
    "hidden_size": 128,
    "intermediate_size": 256,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": MAX_TOKENS,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "projection_dim": 128,
    "torch_dtype": "float32",
}
SCHEDULER_CONFIG: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.42.1",
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "clip_sample": False,
    "num_train_timesteps": TRAIN_TIMESTEPS,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
}


@dataclass(frozen=True)
class TrainingSet:
    """Everything a step draws from, as arrays.

    ``latents`` float32 [v, 8, 8, 4] (scaled, every variant of every picture), ``variants`` int32 [n, k] rows of a
    picture's variants, ``rows`` int32 [c, m] pictures of each class (repeated up to m), ``counts`` int32 [c], ``tokens``
    int32 [t, 77] (row 0: the empty caption), ``class_captions`` and ``noun_captions`` int32 [n, k], rows of ``tokens``.
    """

    latents: jax.Array
    variants: jax.Array
    rows: jax.Array
    counts: jax.Array
    tokens: jax.Array
    class_captions: jax.Array
    noun_captions: jax.Array


jax.tree_util.register_dataclass(TrainingSet, list(TrainingSet.__dataclass_fields__), [])


def text_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """The text encoder's configuration for this vocabulary."""
    end = len(tokenizer.vocabulary) - 1
    return {**TEXT_CONFIG, "vocab_size": end + 1, "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}


def picture_variants(image: np.ndarray, flip: bool, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The picture, its mirror image if ``flip``, and ``count`` smaller, shifted copies of each; uint8 [64, 64, 3]."""
    from PIL import Image

    size = image.shape[0]
    out = []
    for base in [image, image[:, ::-1]] if flip else [image]:
        out.append(base)
        for _ in range(count):
            side = int(rng.integers(int(size * 0.84), size))
            left, top = (int(rng.integers(0, size - side + 1)) for _ in range(2))
            canvas = Image.new("RGB", (size, size), (255, 255, 255))
            canvas.paste(
                Image.fromarray(np.ascontiguousarray(base)).resize((side, side), Image.Resampling.LANCZOS), (left, top)
            )
            out.append(np.asarray(canvas))
    return out


def make_training_set(
    data: Any, vae: AutoencoderKL, tokenizer: Tokenizer, *, mirror: bool, copies: int, seed: int
) -> tuple[TrainingSet, float]:
    """Encodes every variant of every labelled picture; returns the set and the scaling factor (1 / deviation)."""
    rng = np.random.default_rng(seed)
    classes, nouns = [str(c) for c in data["classes"]], [str(n) for n in data["nouns"]]
    pictures: list[np.ndarray] = []
    variants: list[list[int]] = []
    for image, name in zip(data["images"], classes, strict=True):
        # Mirrored writing and arrows are another sign.
        made = picture_variants(image, mirror and name != "road sign", copies, rng)
        first = len(pictures)
        pictures += made
        width = (1 + mirror) * (copies + 1)
        variants.append([first + i % len(made) for i in range(width)])
    graph, params = nnx.split(vae)
    encode = jax.jit(lambda p, x: nnx.merge(graph, p).encode(x.astype(jnp.float32) / 127.5 - 1.0)[0])
    batches = []
    for start in range(0, len(pictures), 64):
        chunk = np.stack(pictures[start : start + 64])
        padded = np.concatenate([chunk, np.zeros((64 - len(chunk), *chunk.shape[1:]), np.uint8)])
        batches.append(np.asarray(encode(params, padded))[: len(chunk)])
    latents = np.concatenate(batches)
    scale = float(1.0 / latents.std())
    texts = [""]
    index: dict[str, int] = {"": 0}

    def rows_of(captions: list[str], width: int) -> list[int]:
        found = []
        for caption in captions:
            if caption not in index:
                index[caption] = len(texts)
                texts.append(caption)
            found.append(index[caption])
        return [found[i % len(found)] for i in range(width)]

    choices = []
    for number, (class_name, noun, image) in enumerate(zip(classes, nouns, data["images"], strict=True)):
        plain, sentences = caption_choices(class_name, noun), sentence_choices(class_name, noun, colours_of(image), number)
        choices.append([short + 2 * long for short, long in zip(plain, sentences, strict=True)])
    class_captions = np.array([rows_of(a, 16) for a, _ in choices], np.int32)
    noun_captions = np.array([rows_of(b, 40) for _, b in choices], np.int32)
    members = [[i for i, c in enumerate(classes) if c == name] for name in dict.fromkeys(classes)]
    longest = max(len(m) for m in members)
    rows = np.array([[m[i % len(m)] for i in range(longest)] for m in members], np.int32)
    built = TrainingSet(
        latents=jnp.asarray(latents * scale, jnp.float32),
        variants=jnp.asarray(variants, jnp.int32),
        rows=jnp.asarray(rows),
        counts=jnp.asarray([len(m) for m in members], jnp.int32),
        tokens=jnp.asarray([tokenizer.encode(t) for t in texts], jnp.int32),
        class_captions=jnp.asarray(class_captions),
        noun_captions=jnp.asarray(noun_captions),
    )
    return built, scale


def alphas_cumulative() -> np.ndarray:
    """ᾱ of every timestep, float32 [1000]: the cosine schedule as diffusers' ``squaredcos_cap_v2`` computes it."""
    from bridgejax.diffusion.schedulers import SchedulerSettings

    return SchedulerSettings.from_config(SCHEDULER_CONFIG).alphas_cumulative().astype(np.float32)


class Denoiser(nnx.Module):
    """Text encoder and UNet, trained as one."""

    def __init__(self, unet: dict[str, Any], text: dict[str, Any], rngs: nnx.Rngs):
        self.text_encoder = CLIPTextModel(text, rngs=rngs)
        self.unet = UNet2DCondition(unet, rngs=rngs)

    def __call__(self, noisy: jax.Array, timesteps: jax.Array, tokens: jax.Array) -> jax.Array:
        """Velocity float32 [n, 8, 8, 4] of noisy latents, timesteps int32 [n] and token ids int32 [n, 77]."""
        return self.unet(noisy, timesteps, self.text_encoder(tokens).last_hidden_state)


def draw(data: TrainingSet, key: jax.Array, batch_size: int, class_only: float) -> tuple[jax.Array, jax.Array]:
    """A batch, balanced over the classes: latents [n, 8, 8, 4] and captions int32 [n], rows of the token table."""
    keys = jax.random.split(key, 7)
    classes = jax.random.randint(keys[0], (batch_size,), 0, data.rows.shape[0])
    within = jnp.floor(jax.random.uniform(keys[1], (batch_size,)) * data.counts[classes]).astype(jnp.int32)
    pictures = data.rows[classes, within]
    variant = jax.random.randint(keys[2], (batch_size,), 0, data.variants.shape[1])
    latents = data.latents[data.variants[pictures, variant]]
    by_class = data.class_captions[pictures, jax.random.randint(keys[3], (batch_size,), 0, data.class_captions.shape[1])]
    by_noun = data.noun_captions[pictures, jax.random.randint(keys[4], (batch_size,), 0, data.noun_captions.shape[1])]
    caption = jnp.where(jax.random.bernoulli(keys[5], class_only, (batch_size,)), by_class, by_noun)
    caption = jnp.where(jax.random.bernoulli(keys[6], UNCONDITIONAL, (batch_size,)), 0, caption)
    return latents, caption


@dataclass(frozen=True)
class UNetOptions:
    """How the UNet part trains; ``minutes`` > 0 makes the learning rate follow the time used, not the steps."""

    steps: int
    minutes: float
    batch_size: int
    learning_rate: float
    seed: int
    sheet_every: float
    constant_share: float = 0.7
    save_every: float = 120.0  # seconds between checkpoints
    class_only: float = 0.2  # share of captions that name the class alone
    timestep_power: float = 0.7  # timesteps are 1000 · u^power; below 1: more noisy ones, where shapes are decided


def rate_at(progress: float, options: UNetOptions) -> float:
    """Learning rate at a share of the run in [0, 1]: 2 % warm-up, constant, then a cosine down to zero."""
    warm = min(progress / 0.02, 1.0) if progress < 0.02 else 1.0
    tail = min(max(progress - options.constant_share, 0.0) / (1.0 - options.constant_share), 1.0)
    return options.learning_rate * max(warm, 0.02) * 0.5 * (1.0 + float(np.cos(np.pi * tail)))


def train_unet(
    data: TrainingSet,
    text: dict[str, Any],
    work: Path,
    options: UNetOptions,
    sheet: Callable[[Any, int], None],
    unet: dict[str, Any] | None = None,
    first_text: Any = None,
    first_unet: Any = None,
) -> Any:
    """Trains to ``work/unet.npz`` (resumable at any time) and returns the moving-average parameters of ``Denoiser``.

    ``sheet`` is called with them and the step every ``options.sheet_every`` minutes and at the end. ``first_text`` and
    ``first_unet`` hold initial parameters.
    """
    config = unet or UNET_CONFIG
    graph = nnx.split(nnx.eval_shape(lambda: Denoiser(config, text, nnx.Rngs(options.seed))))[0]
    alphas = jnp.asarray(alphas_cumulative())
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b1=0.9, b2=0.99))

    @jax.jit
    def start() -> dict[str, Any]:
        params = nnx.split(Denoiser(config, text, nnx.Rngs(options.seed)))[1]
        if first_text is not None:
            params["text_encoder"] = first_text
        if first_unet is not None:
            params["unet"] = first_unet
        return {
            "params": params,
            "ema": params,
            "opt": optimizer.init(params),
            "step": jnp.zeros((), jnp.int32),
            "seconds": jnp.zeros((), jnp.float32),
        }

    def loss_of(params: Any, batch: tuple[jax.Array, jax.Array], key: jax.Array) -> jax.Array:
        latents, context = batch
        time_key, noise_key = jax.random.split(key)
        n = latents.shape[0]
        # One stratum of the timesteps per example: less variance than independent draws.
        positions = (jnp.arange(n) + jax.random.uniform(time_key, (n,))) / n
        timesteps = jnp.minimum((positions**options.timestep_power * TRAIN_TIMESTEPS).astype(jnp.int32), TRAIN_TIMESTEPS - 1)
        alpha = alphas[timesteps][:, None, None, None]
        noise = jax.random.normal(noise_key, latents.shape)
        noisy = jnp.sqrt(alpha) * latents + jnp.sqrt(1.0 - alpha) * noise
        velocity = jnp.sqrt(alpha) * noise - jnp.sqrt(1.0 - alpha) * latents
        return jnp.square(nnx.merge(graph, params).unet(noisy, timesteps, context) - velocity).mean()

    def one_step(
        state: dict[str, Any], examples: TrainingSet, contexts: jax.Array, rate: jax.Array
    ) -> tuple[dict[str, Any], jax.Array]:
        draw_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.key(options.seed), state["step"]))
        latents, captions = draw(examples, draw_key, options.batch_size, options.class_only)
        loss, gradients = jax.value_and_grad(loss_of)(state["params"], (latents, contexts[captions]), loss_key)
        updates, opt = optimizer.update(gradients, state["opt"], state["params"])
        params = jax.tree.map(lambda p, u: p - rate * u, state["params"], updates)
        decay = jnp.minimum(0.999, (1.0 + state["step"]) / (10.0 + state["step"]))
        ema = jax.tree.map(lambda e, p: e * decay + p * (1.0 - decay), state["ema"], params)
        return {"params": params, "ema": ema, "opt": opt, "step": state["step"] + 1, "seconds": state["seconds"]}, loss

    step_function = jax.jit(one_step, donate_argnums=0)
    path = work / "unet.npz"
    state = load_state(path, jax.eval_shape(start)) or start()
    position, before = int(state["step"]), float(state["seconds"])
    encode = jax.jit(lambda params, ids: nnx.merge(graph, params).text_encoder(ids).last_hidden_state)
    table = [encode(state["params"], data.tokens[i : i + 64]) for i in range(0, len(data.tokens), 64)]
    contexts = jnp.concatenate(table)
    log(f"unet: {sum(p.size for p in jax.tree.leaves(state['params']))} parameters, from step {position}")
    began = saved = sheeted = mark = time.time()
    losses: list[jax.Array] = []

    def progress() -> float:
        used = (before + time.time() - began) / (60 * options.minutes) if options.minutes else position / options.steps
        return min(used, 1.0)

    while progress() < 1.0:
        state, loss = step_function(state, data, contexts, jnp.float32(rate_at(progress(), options)))
        losses.append(loss)
        position += 1
        if len(losses) == 100:
            speed, mark = 100 / (time.time() - mark), time.time()
            log(
                f"unet step {position} loss {float(jnp.stack(losses).mean()):.4f} {speed:.2f} steps/s progress {progress():.3f}"
            )
            losses = []
        if time.time() - saved >= options.save_every:
            state["seconds"] = jnp.float32(before + time.time() - began)
            save_state(path, state)
            saved = time.time()
        if time.time() - sheeted >= 60 * options.sheet_every:
            sheet(state["ema"], position)
            sheeted = time.time()
    state["seconds"] = jnp.float32(before + time.time() - began)
    save_state(path, state)
    sheet(state["ema"], position)
    return state["ema"]
