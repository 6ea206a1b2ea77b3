"""The scalars of a run as TensorBoard's event files, written by clu."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from bridgejax.errors import UserError


def check_installed() -> None:
    """Makes sure that event files can be written.

    Raises:
      UserError: a package is missing.
    """
    missing = [name for name in ("clu", "tensorboard") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"training.tensorboard is True, but {' and '.join(missing)} cannot be imported; `pip install "
            "'bridgejax[tensorboard]'`, or set it to False."
        )


class EventLog:
    """Event files of one run. One that goes on gets a further file; the steps that it repeats have the same values.

    Args:
      folder: where they lie.
      goes_on: whether files that are there belong to this run; else they are removed.

    Raises:
      UserError: a package is missing.
    """

    def __init__(self, folder: Path, goes_on: bool) -> None:
        from bridgejax.data.tensorflow import import_tensorflow

        check_installed()
        import_tensorflow()  # which clu imports too: first off the accelerators
        from clu.metric_writers import SummaryWriter

        if not goes_on:
            shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))

    def write(self, step: int, part: str, **values: float) -> None:
        """Writes scalars `part/NAME` after a step."""
        self._writer.write_scalars(step, {f"{part}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        self._writer.close()
