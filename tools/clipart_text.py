"""Trains the text encoder alone, before the UNet: its mean output has to tell the class and the noun of a caption.

Cross-attention starts out nearly uniform, so what reaches a new UNet is the mean over all 77 tokens. Where that mean says
nothing, the UNet learns for thousands of steps to do without text; a minute of this part spares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clipart_captions import Tokenizer, caption_choices
from clipart_state import load_state, log, save_state
from flax import nnx

from bridgejax.models.clip_text import CLIPTextModel


def caption_table(classes: Sequence[str], nouns: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Every caption once, with the index of its class int32 [t] and of its noun int32 [t] (-1 where it names none)."""
    names, things = list(dict.fromkeys(classes)), sorted(set(zip(classes, nouns, strict=True)))
    found: dict[str, tuple[int, int]] = {}
    for pair in things:
        by_class, by_noun = caption_choices(*pair)
        for caption in by_noun:
            found.setdefault(caption, (names.index(pair[0]), things.index(pair)))
        for caption in by_class:
            found[caption] = (names.index(pair[0]), -1)
    captions = sorted(found)
    return captions, *(np.array([found[c][i] for c in captions], np.int32) for i in (0, 1))


def train_text(
    classes: Sequence[str],
    nouns: Sequence[str],
    tokenizer: Tokenizer,
    config: dict[str, Any],
    work: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> Any:
    """Trains to ``work/text.npz`` (done once) and returns the text encoder's parameters.

    Half of each batch names a class alone. Two linear heads on the mean output are thrown away afterwards.
    """
    captions, class_of, noun_of = caption_table(classes, nouns)
    tokens = np.array([tokenizer.encode(c) for c in captions], np.int32)
    alone, named = np.flatnonzero(noun_of < 0), np.flatnonzero(noun_of >= 0)
    graph = nnx.split(nnx.eval_shape(lambda: CLIPTextModel(config, rngs=nnx.Rngs(seed))))[0]
    width = config["hidden_size"]
    heads = (int(class_of.max()) + 1, int(noun_of.max()) + 1)
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, learning_rate, 50, steps), b2=0.99, weight_decay=1e-3)

    @jax.jit
    def start() -> dict[str, Any]:
        text = nnx.split(CLIPTextModel(config, rngs=nnx.Rngs(seed)))[1]
        params = {"text": text, "heads": [jnp.zeros((width, n)) for n in heads]}
        return {"params": params, "opt": optimizer.init(params), "step": jnp.zeros((), jnp.int32)}

    def loss_of(params: Any, ids: jax.Array, class_ids: jax.Array, noun_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean = nnx.merge(graph, params["text"])(ids).last_hidden_state.mean(1)
        by_class = optax.softmax_cross_entropy_with_integer_labels(mean @ params["heads"][0], class_ids)
        logits = mean @ params["heads"][1]
        by_noun = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(noun_ids, 0))
        right = jnp.where(noun_ids >= 0, logits.argmax(-1) == noun_ids, 0).sum() / jnp.maximum((noun_ids >= 0).sum(), 1)
        return (by_class + jnp.where(noun_ids >= 0, by_noun, 0.0)).mean(), right

    def one_step(state: dict[str, Any], *batch: jax.Array) -> tuple[dict[str, Any], jax.Array, jax.Array]:
        (loss, right), gradients = jax.value_and_grad(loss_of, has_aux=True)(state["params"], *batch)
        updates, opt = optimizer.update(gradients, state["opt"], state["params"])
        return (
            {"params": optax.apply_updates(state["params"], updates), "opt": opt, "step": state["step"] + 1},
            loss,
            right,
        )

    path = work / "text.npz"
    state = load_state(path, jax.eval_shape(start)) or start()
    step_function = jax.jit(one_step, donate_argnums=0)
    while (position := int(state["step"])) < steps:
        rng = np.random.default_rng((seed, 2, position))
        half = batch_size // 2
        rows = np.concatenate([rng.choice(alone, half), rng.choice(named, batch_size - half)])
        state, loss, right = step_function(state, tokens[rows], class_of[rows], noun_of[rows])
        if (position + 1) % 50 == 0:
            log(f"text step {position + 1}/{steps} loss {float(loss):.4f} nouns right {float(right):.2f}")
        if position + 1 == steps:
            save_state(path, state)
    return state["params"]["text"]
