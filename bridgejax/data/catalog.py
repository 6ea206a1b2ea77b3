"""The catalogue: tasks of the transfer-learning literature as data, with exact splits, class names, metric and templates.

The tasks are in `tables/tasks.json`, by the fields of `CatalogTask`. Their class names are in `tables/NAME.tsv`, one line per
label in the order of the labels: the name under which the data records the class, a tab, and the name as a person would say it
(empty: not part of the task).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path

from bridgejax.errors import UserError, choices
from bridgejax.files import JSONObject, expanded

_TABLES = Path(__file__).resolve().parent / "tables"
INFO_FILE = "dataset_info.json"  # makes a folder a TFDS set
VERSION = r"\d+\.\d+\.\d+"


@dataclasses.dataclass(frozen=True)
class CatalogTask:
    """A task of the literature."""

    name: str  # as in `task.source=task:NAME`
    title: str  # its full name
    classes: int  # how many classes the task has
    images: tuple[int, int]  # training and test images of the whole data, over the task's classes
    metric: str  # what papers report: "top-1" or "mean per class"
    template: str  # one prompt template, in the words that suit the classes
    tfds: str | None = None  # NAME or NAME/CONFIG of TensorFlow Datasets, or None where it does not have the set
    version: str | None = None  # the first part of the version of that set which the splits and names here are of
    # train, test: its splits, joined by "+", with TFDS's slices; "" where there is nothing to train on
    train: str = "train"
    test: str = "test"
    # Where TFDS has none: the folder that the published archive unpacks to, and where that archive is.
    archive: tuple[str, str] | None = None
    remark: str = ""  # what to know about the splits

    @functools.cached_property
    def table(self) -> dict[str, str]:
        """Recorded name → name as a person says it ("" if not part of the task), in the order of the labels."""
        lines = (_TABLES / f"{self.name}.tsv").read_text(encoding="utf-8").splitlines()
        return dict(line.split("\t") for line in lines)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the task's classes, in its order."""
        return tuple(name for name in self.table.values() if name)


def _task(row: JSONObject) -> CatalogTask:
    fields: JSONObject = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return CatalogTask(**fields)


TASKS = {row["name"]: _task(row) for row in json.loads((_TABLES / "tasks.json").read_text(encoding="utf-8"))}


def find_task(name: str) -> CatalogTask:
    """Returns a task of the catalogue.

    Raises:
      UserError: there is none of this name.
    """
    if name not in TASKS:
        raise UserError(f"task:{name} is not in the catalogue; {choices(name, TASKS)}")
    return TASKS[name]


def task_of_tfds(name: str) -> CatalogTask | None:
    """Returns the task whose data the TFDS set of a name is, or None.

    Args:
      name: NAME[/CONFIG], then nothing, :VERSION or /VERSION. Without a config it means the one task of that NAME.
    """
    path, _ = split_version(name)
    matching = [task for task in TASKS.values() if task.tfds is not None and path in (task.tfds, task.tfds.partition("/")[0])]
    return matching[0] if len(matching) == 1 else None


def split_version(name: str) -> tuple[str, str]:
    """Returns NAME[/CONFIG] and the version behind ":" or "/", "" if there is none."""
    path, _, version = name.partition(":")
    if not version and re.fullmatch(VERSION, path.rpartition("/")[2]):
        path, _, version = path.rpartition("/")
    return path, version


def metric_of(source: str) -> str | None:
    """Returns what papers report on the task of a `task.source`, or None if the catalogue does not know it."""
    kind, _, name = source.partition(":")
    task = TASKS.get(name) if kind == "task" else task_of_tfds(_recorded_name(name) or name) if kind == "tfds" else None
    return None if task is None else task.metric


def _recorded_name(path: str) -> str | None:
    """Returns the NAME[/CONFIG] that the TFDS set in a folder records, or None if there is no set."""
    try:
        info = json.loads((expanded(path) / INFO_FILE).read_text(encoding="utf-8"))
        return "/".join(info[key] for key in ("name", "configName") if info.get(key))
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def plain_key(name: str) -> str:
    """A class name without what file systems and habits change: case, spaces, signs."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def spoken_names(task: CatalogTask, recorded: Sequence[str]) -> list[str] | None:
    """Returns for each recorded label what a person calls it, "" where it is not part of the task.

    Labels that are bare numbers mean positions in the table; others are found by their name, in whatever order they come.

    Returns:
      None if these are not the labels of the task's data: another number of them, or a name that the table lacks.
    """
    table = task.table
    if len(recorded) != len(table):
        return None
    if all(name.isdigit() for name in recorded) and sorted(map(int, recorded)) == list(range(len(table))):
        by_place = list(table.values())
        return [by_place[int(name)] for name in recorded]
    known = {plain_key(key): name for key, name in table.items()}
    keys = [plain_key(name) for name in recorded]
    # Stanford Dogs adds the breed to the WordNet number that the table has: n02085620-chihuahua.
    keys = [key if key in known else key.partition("_")[0] for key in keys]
    if len(set(keys)) != len(keys) or not set(keys) <= set(known):
        return None
    return [known[key] for key in keys]
