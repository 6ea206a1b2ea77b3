"""Starting anew: initial values for a classifier's head, its last blocks or the whole of it.

Every parameter is drawn from its own key, folded from the given key and the parameter's dotted path: it does not depend
on what else is drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.identity import fold_word

if TYPE_CHECKING:
    from bridgejax.models.classifier import Classifier

Draw = Callable[[jax.Array, tuple[int, ...]], jax.Array]


class Start(NamedTuple):
    """One line of a table of initial values."""

    pattern: str  # regular expression that ends where the dotted path of a parameter ends
    draw: Draw  # (key, shape) → float32


def ones(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns ones."""
    return jnp.ones(shape, jnp.float32)


def zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns zeros."""
    return jnp.zeros(shape, jnp.float32)


def normal(deviation: float) -> Draw:
    """Returns the draw of a normal distribution with mean 0."""
    return lambda key, shape: deviation * jax.random.normal(key, shape, jnp.float32)


def uniform(bound: float) -> Draw:
    """Returns the draw of a uniform distribution in ±bound."""
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def he_fan_out(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns a dense convolution's kernel [k, k, in, out]: normal with variance 2 / (k² · out) (He et al. 2015)."""
    return normal(math.sqrt(2.0 / (shape[0] * shape[1] * shape[3])))(key, shape)


def he_depthwise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns a depthwise kernel [k, k, 1, c]: normal with variance 2 / k², since each input reaches one channel."""
    return normal(math.sqrt(2.0 / (shape[0] * shape[1])))(key, shape)


NORM_STARTS = (Start(r"(scale|var)", ones), Start(r"(bias|mean)", zeros))


def whole_classes(num_classes: int) -> int:
    """Returns a number of classes if it is one.

    Raises:
      UserError: it is no whole number from 1.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer) or num_classes < 1:
        raise UserError(f"num_classes is {num_classes!r}; a classifier needs at least 1 class, give a whole number.")
    return int(num_classes)


def linear_heads(model: Any) -> list[nnx.Linear]:
    """Returns the linear layers that a model's `head` is, or is the mean of; none if it is anything else."""
    head = getattr(model, "head", None)
    return [head] if isinstance(head, nnx.Linear) else list(getattr(head, "linear_heads", ()))


def reset_head(model: Classifier, key: jax.Array | int, num_classes: int | None = None) -> Classifier:
    """Gives `model` a new linear head, in place (a distilled DeiT: two).

    Args:
      model: a classifier.
      key: a PRNG key, or an integer seed.
      num_classes: outputs of the new head; None keeps their number (and the module's structure).

    Returns:
      The same model. Kernel and bias are uniform in ±1/√d for d inputs, as PyTorch's linear layer starts.

    Raises:
      UserError: `num_classes` is no whole number from 1.
    """
    classes = model.num_classes if num_classes is None else whole_classes(num_classes)
    root = _key(key)
    for number, head in enumerate(linear_heads(model)):
        draw = uniform(1.0 / math.sqrt(head.in_features))
        kernel_key, bias_key = jax.random.split(jax.random.fold_in(root, number) if number else root)
        head.kernel = nnx.Param(draw(kernel_key, (head.in_features, classes)))
        head.bias = nnx.Param(draw(bias_key, (classes,)))
        head.out_features = classes
    model.num_classes = classes
    return model


def reset_blocks(model: Classifier, count: int, key: jax.Array | int, num_classes: int | None = None) -> Classifier:
    """Gives `model` a new head and new initial values in its last `count` blocks and all that follows them, in place.

    Args:
      model: a classifier; `len(model.blocks)` says how many blocks there are.
      count: blocks to reset, counted from the output; 0 resets the head alone, as `reset_head` with the same key.
      key: a PRNG key, or an integer seed. A block's values depend on the key and on the block's place alone.
      num_classes: outputs of the new head; None keeps their number (and the module's structure).

    Returns:
      The same model. Kernels, biases and scales start as the published libraries start them (the model's `starts`); running
      statistics start at mean 0, variance 1.

    Raises:
      UserError: `count` is no whole number from 0 to the number of blocks, or `num_classes` is none from 1.
    """
    blocks = list(model.blocks)
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 0 <= count <= len(blocks):
        raise UserError(
            f"{count!r} blocks cannot be reset: {model.architecture} has {len(blocks)} blocks; give a whole number from 0 "
            f"to {len(blocks)}."
        )
    root = _key(key)
    reset_head(model, root, num_classes)
    first = len(blocks) - int(count)
    for number in range(first, len(blocks)):
        _draw_all(blocks[number], f"blocks.{number}", model.starts(), root)
    for name in model.after_blocks if count else ():
        _draw_all(getattr(model, name), name, model.starts(), root)
    return model


def reinitialise(model: Classifier, key: jax.Array | int) -> Classifier:
    """Gives every parameter of `model` its initial value, in place: training "from scratch".

    Args:
      model: a classifier.
      key: a PRNG key, or an integer seed.

    Returns:
      The same model, of the same structure, started as the published libraries start it (the model's `starts`); running
      statistics start at mean 0, variance 1, the head as `reset_head` starts it.
    """
    root = _key(key)
    _draw_all(model, "", model.starts(), root)
    return reset_head(model, root)


def _draw_all(module: nnx.Module, place: str, starts: Sequence[Start], key: jax.Array) -> None:
    for path, variable in nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat))):
        name = ".".join(map(str, (*([place] if place else ()), *path)))
        if name.startswith("head."):
            continue  # reset_head's
        draw = next((start.draw for start in starts if re.search(rf"(^|\.){start.pattern}$", name)), None)
        if draw is None:
            raise UserError(f"no rule of the table of initial values says how parameter {name} starts; add one.")
        old = variable.get_value()  # an array, or its shape alone
        value = draw(jax.random.fold_in(key, fold_word(name)), old.shape).astype(old.dtype)
        _variable(module, path).set_value(value)


def _variable(module: Any, path: Sequence[Any]) -> Any:
    for part in path:
        module = module[part] if isinstance(part, int) else getattr(module, part)
    return module


def _key(key: jax.Array | int) -> jax.Array:
    return jax.random.key(int(key)) if isinstance(key, int | np.integer) else key
