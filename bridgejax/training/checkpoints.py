"""Checkpoints of a run, by Orbax: whole or absent, the last one kept, written beside the training."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from bridgejax.errors import TryAgain, UserError
from bridgejax.mesh import OTHERS_GONE, lost_another
from bridgejax.training.early_stop import BestArrays, EarlyStopNotes
from bridgejax.training.run_record import HistoryEntry, RunMetrics
from bridgejax.training.state import TrainState

_TREES = {"opt_state": "opt_state", "objective_state": "objective"}  # fields stored leaf by leaf, by their names on disk
_BEST = "kept"  # on disk, the arrays of the best validation check


class Notes(TypedDict):
    """Plain data beside a state's arrays: what a run needs to go on."""

    identity: str
    stage: int
    history: list[HistoryEntry]
    losses: list[float]
    seconds: dict[str, float]
    metrics: RunMetrics | None
    stage_steps: list[int]
    early: EarlyStopNotes | None


class DamagedCheckpoint(UserError):
    """A checkpoint cannot be read."""


class Checkpoints:
    """The checkpoints in one folder; the newest two are kept.

    A save returns once the arrays are copied; a thread writes them aside and renames the folder when all is on disk, so a
    process killed at any moment leaves the one before. What lies aside without the rename is removed and never counts.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=True, cleanup_tmp_directories=True, create=True
        )
        with _write_errors(self.directory):
            self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None; waits for one that is being written."""
        self.wait()
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def notes(self, step: int) -> Notes:
        """Returns the notes of a checkpoint.

        Raises:
          DamagedCheckpoint: they cannot be read.
        """
        return self._restored(step, "notes", ocp.args.JsonRestore())

    def delete(self, step: int) -> None:
        """Removes a checkpoint: while one of a step is there, Orbax saves neither that step nor an earlier one."""
        self._manager.delete(step)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Returns the state of a step, laid out as `like` is.

        Raises:
          DamagedCheckpoint: the checkpoint is damaged or belongs to another model.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _as_stored(like))
        stored = self._restored(step, "state", ocp.args.StandardRestore(target))
        fields = {name: stored[name] for name in ("params", "other", "step", "key")}
        for name, item in _TREES.items():
            numbered = stored.get(item, {})
            leaves = [numbered[number] for number in sorted(numbered)]
            fields[name] = jax.tree.unflatten(jax.tree.structure(getattr(like, name)), leaves)
        return dataclasses.replace(like, **fields)

    def restore_best(self, step: int, like: BestArrays) -> BestArrays:
        """Returns the arrays of the best validation check that were saved with a step, laid out as `like` is.

        Raises:
          DamagedCheckpoint: there are none, or they are damaged.
        """
        return self._restored(step, _BEST, ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like)))

    def save(self, step: int, state: TrainState, notes: Notes, best: BestArrays | None = None) -> None:
        """Starts writing a checkpoint; a step that is already there is left alone.

        Args:
          step: optimiser steps done.
          state: what a run goes on from.
          notes: plain data.
          best: the arrays of the best validation check, which nothing overwrites.
        """
        if step == self._manager.latest_step():
            return
        # Copies: the next step donates, and so overwrites, the state's own arrays while the thread still writes.
        arrays = jax.tree.map(jnp.copy, _as_stored(state))
        items = {"state": ocp.args.StandardSave(arrays), "notes": ocp.args.JsonSave(notes)}
        if best is not None:
            items[_BEST] = ocp.args.StandardSave(best)
        with _write_errors(self.directory):
            self._manager.save(step, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        """Returns when all is on disk."""
        with _write_errors(self.directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the writing thread."""
        with _write_errors(self.directory):
            self._manager.close()

    def remove(self) -> None:
        """Closes, and removes every checkpoint."""
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _restored(self, step: int, name: str, how: ocp.args.CheckpointArgs) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{name: how}))[name]
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise DamagedCheckpoint(
                f"the checkpoint {self.directory / str(step)} cannot be read for this model ({reason}); "
                f"remove {self.directory} to train from the start."
            ) from error


def _as_stored(state: TrainState) -> dict[str, Any]:
    """Returns the state's arrays; trees of other libraries as numbered leaves, and none that has no leaf."""
    stored: dict[str, Any] = {name: getattr(state, name) for name in ("params", "other", "step", "key")}
    for name, item in _TREES.items():
        leaves = jax.tree.leaves(getattr(state, name))
        if leaves or name == "opt_state":
            stored[item] = {f"{number:05d}": leaf for number, leaf in enumerate(leaves)}
    return stored


@contextlib.contextmanager
def _write_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # TensorStore reports a full disk as a ValueError
        if lost_another(error):
            raise TryAgain(OTHERS_GONE) from error
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0][:160]
        raise UserError(
            f"checkpoints cannot be written to {directory} ({reason}); free space or choose another --workdir."
        ) from error
