"""Resetting: new initial values for a classifier's head, its last blocks or the whole of it.

Every parameter is drawn from its own key, folded from the given key and the parameter's dotted path: it does not depend
on what else is drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.identity import fold_word
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.models.classifier import Classifier
from bridgejax.models.initializers import Initializer, uniform


def checked_num_classes(num_classes: int) -> int:
    """Returns `num_classes` as an int.

    Raises:
      UserError: it is not a whole number of at least 1.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer) or num_classes < 1:
        raise UserError(f"num_classes is {num_classes!r}; a classifier needs at least 1 class, give a whole number.")
    return int(num_classes)


def linear_heads(model: nnx.Module) -> list[nnx.Linear]:
    """Returns the linear layers that a model's `head` is, or is the mean of; none if it is anything else."""
    head = getattr(model, "head", None)
    return [head] if isinstance(head, nnx.Linear) else list(getattr(head, "linear_heads", ()))


@under_jax_defaults
def reset_head(model: Classifier, key: jax.Array | int, num_classes: int | None = None) -> Classifier:
    """Gives `model` a new linear head, in place (a distilled DeiT: two).

    Args:
      model: a classifier.
      key: a PRNG key, or an integer seed.
      num_classes: outputs of the new head; None keeps their number (and the module's structure). Of another number, they
        have no names.

    Returns:
      The same model. Kernel and bias are uniform in ±1/√d for d inputs, as PyTorch's linear layer starts.

    Raises:
      UserError: `num_classes` is not a whole number of at least 1.
    """
    classes = model.num_classes if num_classes is None else checked_num_classes(num_classes)
    root = _key(key)
    for number, head in enumerate(linear_heads(model)):
        draw = uniform(1.0 / math.sqrt(head.in_features))
        kernel_key, bias_key = jax.random.split(jax.random.fold_in(root, number) if number else root)
        head.kernel = nnx.Param(draw(kernel_key, (head.in_features, classes)))
        head.bias = nnx.Param(draw(bias_key, (classes,)))
        head.out_features = classes
    if classes != model.num_classes:
        model.class_names = ()
    model.num_classes = classes
    return model


@under_jax_defaults
def reset_blocks(model: Classifier, count: int, key: jax.Array | int, num_classes: int | None = None) -> Classifier:
    """Gives `model` a new head and new initial values in its last `count` blocks and all that follows them, in place.

    Args:
      model: a classifier; `len(model.blocks)` says how many blocks there are.
      count: blocks to reset, counted from the output; 0 resets the head alone, as `reset_head` with the same key.
      key: a PRNG key, or an integer seed. A block's values depend on the key and on the block's place alone.
      num_classes: outputs of the new head; None keeps their number (and the module's structure).

    Returns:
      The same model. Kernels, biases and scales start as in the published libraries (the model's `initializers`); running
      statistics start at mean 0, variance 1.

    Raises:
      UserError: `count` is not a whole number from 0 to the number of blocks, or `num_classes` not one of at least 1.
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
        _draw_all(blocks[number], f"blocks.{number}", model.initializers(), root)
    for name in model.after_blocks if count else ():
        if getattr(model, name) is not None:
            _draw_all(getattr(model, name), name, model.initializers(), root)
    return model


@under_jax_defaults
def reinitialise(model: Classifier, key: jax.Array | int) -> Classifier:
    """Gives every parameter of `model` its initial value, in place: training "from scratch"; `key` may be an integer seed.

    Returns:
      The same model, of the same structure, started as the published libraries start it (the model's `initializers`); running
      statistics start at mean 0, variance 1, the head as `reset_head` starts it.
    """
    root = _key(key)
    _draw_all(model, "", model.initializers(), root)
    return reset_head(model, root)


def _draw_all(module: nnx.Module, place: str, table: Sequence[Initializer], key: jax.Array) -> None:
    for path, variable in nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat))):
        name = ".".join(map(str, (*([place] if place else ()), *path)))
        if name.startswith("head."):
            continue  # reset_head's
        draw = next((line.draw for line in table if re.search(rf"(^|\.){line.pattern}$", name)), None)
        if draw is None:
            raise UserError(f"no line of the table of initializers gives the initial values of parameter {name}; add one.")
        old = variable.get_value()  # an array, or its shape alone
        value = draw(jax.random.fold_in(key, fold_word(name)), old.shape).astype(old.dtype)
        _variable(module, path).set_value(value)


def _variable(module: Any, path: Sequence[object]) -> nnx.Variable:
    for part in path:
        module = module[part] if isinstance(part, int) else getattr(module, str(part))
    return module


def _key(key: jax.Array | int) -> jax.Array:
    return jax.random.key(int(key)) if isinstance(key, int | np.integer) else key
