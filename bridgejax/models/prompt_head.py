"""The head of CoOp (Zhou et al. 2022, arXiv 2109.01134): class embeddings of prompts whose first tokens are learned."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.classifier import Classifier
from bridgejax.models.clip import ZeroShot
from bridgejax.models.clip_text import CLIPTextModel, Words

DEVIATION = 0.02  # of the context at the start


class PromptTokens(nnx.Variable[jax.Array]):
    """Token ids of prompts, int32 [classes, tokens]; no parameter, so never trained."""


class PromptHead(nnx.Module):
    """logits = exp(logit_scale) · cosine of the features and the embeddings of "[context] CLASS.".

    Attributes:
      text: the text network.
      context: float32 [m, hidden], the embeddings of the first tokens, the same for every class. CoOp trains them alone.
      tokens: the prompts, with the ids from `first` on, which no class name has, in the places of the context.
      scale: exp(logit_scale).
    """

    def __init__(
        self, text: CLIPTextModel, context: jax.Array, tokens: npt.NDArray[np.int32], first: int, scale: float
    ) -> None:
        self.text, self.first, self.scale = text, first, scale
        self.context, self.tokens = nnx.Param(context), PromptTokens(jnp.asarray(tokens))

    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps features of unit length [n, d] to logits [n, classes]."""
        columns = self.text(self.tokens[...], Words(jnp.int32(self.first), self.context[...])).pooled
        return self.scale * features @ (columns / jnp.linalg.norm(columns, axis=-1, keepdims=True)).T


def learn_prompts(model: Classifier, class_names: Sequence[str], count: int, key: jax.Array) -> None:
    """Gives a CLIP model a `PromptHead`, in place.

    Args:
      model: with its text tower.
      class_names: one per class.
      count: tokens of the context.
      key: of their normal initial values.

    Raises:
      UserError: the model is no CLIP model with its text tower, or a class name does not fit behind the context.
    """
    texts = model.texts if isinstance(model, ZeroShot) else None
    if texts is None or not isinstance(texts.network, CLIPTextModel):
        raise UserError(
            f"prompts are learned with the text tower of a CLIP model, which this {model.architecture} has not; give a CLIP "
            "folder as classifier.weights, with classifier.templates."
        )
    rows = texts.tokens([f"{name}." for name in class_names])
    taken, length = set(rows.ravel().tolist()), rows.shape[1]
    end = int(rows.max())
    first = next((id for id in range(end - count, 0, -1) if taken.isdisjoint(range(id, id + count))), None)
    places = (rows == end).argmax(axis=1) + count  # of the end tokens
    if first is None or places.max() >= length:
        longest = class_names[int(places.argmax())]
        raise UserError(f"class {longest!r} does not fit behind a context of {count} tokens; lower context_tokens.")
    context = np.tile(np.arange(first, first + count, dtype=np.int32), (len(rows), 1))
    tokens = np.concatenate([rows[:, :1], context, rows[:, 1:]], axis=1)[:, :length]
    start = DEVIATION * jax.random.normal(key, (count, texts.network.width))
    model.head = PromptHead(nnx.clone(texts.network), start, tokens, first, float(np.exp(np.float32(texts.logit_scale))))
