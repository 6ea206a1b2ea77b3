"""Checkpoints of a run, by Orbax: whole or absent, the last one kept, written beside the training."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from bridgejax.errors import UserError
from bridgejax.training.state import TrainState

_ARRAYS = ("params", "other", "opt_state", "step", "key")


class Checkpoints:
    """The checkpoints in one folder; the newest whole one is kept.

    A save returns once the arrays are copied; a thread writes them aside and renames the folder when all is on disk, so a
    process killed at any moment leaves the one before.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, enable_async_checkpointing=True, cleanup_tmp_directories=True, create=True
        )
        with _told(self.directory):
            self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None; waits for one that is being written."""
        self.wait()
        return self._manager.latest_step()

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Returns the newest checkpoint's step and its notes, or None."""
        step = self._manager.latest_step()
        if step is None:
            return None
        try:
            notes = self._manager.restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"]
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(step, error) from error
        return step, notes

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Returns the state of a step, laid out as `like` is.

        Raises:
          UserError: the checkpoint is damaged or belongs to another model.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
            found = self._manager.restore(step, args=args)["state"]
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(step, error) from error
        moments = jax.tree.unflatten(jax.tree.structure(like.opt_state), _leaves(found["opt_state"]))
        return dataclasses.replace(like, **{name: found[name] for name in _ARRAYS if name != "opt_state"}, opt_state=moments)

    def restore_kept(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """Returns the `kept` tree that was saved with a step, laid out as `like` is.

        Raises:
          UserError: there is none, or it is damaged.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._manager.restore(step, args=ocp.args.Composite(kept=ocp.args.StandardRestore(target)))["kept"]
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(step, error) from error

    def save(self, step: int, state: TrainState, notes: dict[str, Any], kept: dict[str, Any] | None = None) -> None:
        """Starts writing a checkpoint; a step that is already there is left alone.

        Args:
          step: optimiser steps done.
          state: what a run goes on from.
          notes: plain data.
          kept: a tree of arrays that nothing overwrites, stored beside the state.
        """
        if step == self._manager.latest_step():
            return
        # Copies: the next step donates, and so overwrites, the state's own arrays while the thread still writes.
        arrays = jax.tree.map(jnp.copy, _plain(state))
        items = {"state": ocp.args.StandardSave(arrays), "notes": ocp.args.JsonSave(notes)}
        if kept is not None:
            items["kept"] = ocp.args.StandardSave(kept)
        with _told(self.directory):
            self._manager.save(step, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        """Returns when all is on disk."""
        with _told(self.directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the writing thread."""
        with _told(self.directory):
            self._manager.close()

    def remove(self) -> None:
        """Closes, and removes every checkpoint."""
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _damaged(self, step: int, error: Exception) -> UserError:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        return UserError(
            f"the checkpoint {self.directory / str(step)} cannot be read for this model ({reason}); "
            f"remove {self.directory} to train from the start."
        )


def _plain(state: TrainState) -> dict[str, Any]:
    plain = {name: getattr(state, name) for name in _ARRAYS}
    leaves = jax.tree.leaves(state.opt_state)
    plain["opt_state"] = {f"{number:05d}": leaf for number, leaf in enumerate(leaves)}
    return plain


def _leaves(numbered: dict[str, Any]) -> list[Any]:
    return [numbered[name] for name in sorted(numbered)]


@contextlib.contextmanager
def _told(directory: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # TensorStore tells a full disk as a ValueError
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0][:160]
        raise UserError(
            f"checkpoints cannot be written to {directory} ({reason}); free space or choose another --workdir."
        ) from error
