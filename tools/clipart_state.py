"""Checkpoints of the training programs (one ``.npz``, whole or absent) and their log lines."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _names(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def save_state(path: Path, state: Any) -> None:
    """Writes the arrays of a tree to ``path``: beside it first, then renamed, so that a killed program leaves the old file."""
    arrays = {name: np.asarray(leaf) for name, leaf in _names(state)}
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_state(path: Path, like: Any, partial: bool = False) -> Any | None:
    """Returns the tree saved at ``path`` with the structure of ``like``, or None where there is no file.

    Raises:
      SystemExit: the file is of another configuration (names or shapes differ); ``partial`` allows further names in it.
    """
    if not path.is_file():
        return None
    with np.load(path) as stored:
        wanted = _names(like)
        if (not partial and set(stored.files) != {n for n, _ in wanted}) or any(
            name not in stored.files or stored[name].shape != leaf.shape for name, leaf in wanted
        ):
            raise SystemExit(f"{path} is a checkpoint of another configuration; use another --work folder or remove it")
        leaves = [jnp.asarray(stored[name]) for name, _ in wanted]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def log(message: str) -> None:
    """Prints one line with the time of day, at once."""
    print(time.strftime("%H:%M:%S"), message, flush=True)
