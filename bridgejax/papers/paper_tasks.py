"""The data sets of papers as tasks of the catalogue, and the tasks that stand for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bridgejax.data.catalog import TASKS, CatalogTask
from bridgejax.errors import UserError, choices

if TYPE_CHECKING:
    from ml_collections import ConfigDict

EMBEDDED = "embedded"
_CATALOGUE = {"flowers": "flowers102", "food": "food101"}  # what the papers call otherwise


def paper_tasks(names: Iterable[str]) -> dict[str, CatalogTask]:
    """Returns the paper's name → the catalogue's task: its splits, class names and metric are the usual ones."""
    return {name: TASKS[_CATALOGUE.get(name, name)] for name in names}


def set_other_task(config: ConfigDict, arg: str | None, data_sets: Mapping[str, CatalogTask]) -> None:
    """Gives a config the task that stands for a paper's: the embedded one, or the `task.source` that `arg` is.

    Raises:
      UserError: it is none.
    """
    if arg not in (None, EMBEDDED):
        if ":" not in str(arg):
            raise UserError(
                f"{arg!r} is not a data set of the paper; {choices(arg, (EMBEDDED, *data_sets))} A task.source such as "
                "folder:PATH will do too."
            )
        config.task.source = str(arg)
