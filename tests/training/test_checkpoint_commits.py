"""A checkpoint that did not commit is never taken for the latest, by the process that saved it or by the next one.

Orbax counts a step once its arrays are copied, and forgets it only for who waits for the commit that failed.
A process that goes on without would restore what is not there, and save nothing up to that step, as users of MaxText met it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from training_fixtures import PlainNet

from bridgejax.errors import UserError
from bridgejax.training import TrainState, make_optimizer
from bridgejax.training.checkpoints import Checkpoints, DamagedCheckpoint


def state(seed: int) -> TrainState:
    return TrainState.create(PlainNet(nnx.Rngs(seed)), make_optimizer("sgd", 0.1))


def kernel(made: TrainState) -> np.ndarray:
    return np.asarray(made.params["layers.0.kernel"])


@pytest.fixture
def fail_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the rename that commits a step fail, as on a disk that is full."""
    rename = os.rename

    def fail(step: int) -> None:
        def renamed(source: object, destination: object) -> None:
            if Path(str(destination)).name == str(step):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rename(source, destination)

        monkeypatch.setattr(os, "rename", renamed)

    return fail


def second_failed(folder: Path, fail_at: Callable[[int], None]) -> Checkpoints:
    """Checkpoints of which step 1 was committed, and step 2 cannot be."""
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, state(1), {})
    checkpoints.wait()
    fail_at(2)
    checkpoints.save(2, state(2), {})
    return checkpoints


def test_a_commit_that_failed_does_not_count_in_the_process_that_goes_on(tmp_path, fail_at):
    checkpoints = second_failed(tmp_path / "run", fail_at)
    with pytest.raises(UserError, match="checkpoints cannot be written"):
        checkpoints.latest_step()
    assert checkpoints.latest_step() == 1
    assert checkpoints.steps() == [1]
    np.testing.assert_array_equal(kernel(checkpoints.restore(1, state(9))), kernel(state(1)))
    fail_at(0)  # there is space again: the same step can be saved
    checkpoints.save(2, state(2), {})
    assert checkpoints.latest_step() == 2
    np.testing.assert_array_equal(kernel(checkpoints.restore(2, state(9))), kernel(state(2)))
    checkpoints.close()


def test_a_commit_that_failed_is_told_by_the_next_save(tmp_path, fail_at):
    checkpoints = second_failed(tmp_path / "run", fail_at)
    with pytest.raises(UserError, match="checkpoints cannot be written"):
        checkpoints.save(3, state(3), {})
    assert checkpoints.latest_step() == 1
    checkpoints.close()


def test_what_lies_aside_or_is_empty_is_not_a_checkpoint_for_the_next_process(tmp_path):
    folder = tmp_path / "run"
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, state(1), {})
    checkpoints.close()
    (folder / "2.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (folder / "3.orbax-checkpoint-tmp-17").mkdir()
    again = Checkpoints(folder)
    assert again.latest_step() == 1
    again.save(3, state(3), {})  # before which what lies aside is removed
    again.close()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "3"]
    (folder / "4").mkdir()  # a copy of a folder that was under way
    again = Checkpoints(folder)
    assert again.steps() == [4, 3, 1]
    with pytest.raises(DamagedCheckpoint):  # on which training takes the one before
        again.restore(4, state(9))
    np.testing.assert_array_equal(kernel(again.restore(3, state(9))), kernel(state(3)))
    again.close()
