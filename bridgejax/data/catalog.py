"""The catalogue: tasks of the transfer-learning literature as data, with exact splits, class names, metric and templates.

A task's class names are in `tables/NAME.tsv`, one line per label in the order of the labels: the name under which the data
records the class, a tab, and the name as a person would say it (empty: not part of the task).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path

from bridgejax.errors import UserError, choices
from bridgejax.files import expanded

_TABLES = Path(__file__).resolve().parent / "tables"
INFO_FILE = "dataset_info.json"  # makes a folder a TFDS set
VERSION = r"\d+\.\d+\.\d+"


@dataclasses.dataclass(frozen=True)
class CatalogTask:
    """A task of the literature.

    Attributes:
      name: as in `task.source=task:NAME`.
      title: its full name.
      classes: how many classes the task has.
      images: training and test images of the whole data, over the task's classes.
      metric: what papers report: "top-1" or "mean per class".
      template: one prompt template, in the words that suit the classes.
      tfds: NAME or NAME/CONFIG of TensorFlow Datasets, or None where it does not have the set.
      version: the first part of the version of that set which the splits and names here are of.
      train, test: its splits, joined by "+", with TFDS's slices; "" where there is nothing to train on.
      archive: where TFDS has none: the folder that the published archive unpacks to, and where that archive is.
      remark: what to know about the splits.
    """

    name: str
    title: str
    classes: int
    images: tuple[int, int]
    metric: str
    template: str
    tfds: str | None = None
    version: str | None = None
    train: str = "train"
    test: str = "test"
    archive: tuple[str, str] | None = None
    remark: str = ""

    @functools.cached_property
    def table(self) -> dict[str, str]:
        """Recorded name → name as a person says it ("" if not part of the task), in the order of the labels."""
        lines = (_TABLES / f"{self.name}.tsv").read_text(encoding="utf-8").splitlines()
        return dict(line.split("\t") for line in lines)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the task's classes, in its order."""
        return tuple(name for name in self.table.values() if name)


_PHOTO = "a photo of a {}"
TASKS: dict[str, CatalogTask] = {
    task.name: task
    for task in (
        CatalogTask(
            "aircraft",
            "FGVC-Aircraft, variants",
            classes=100,
            images=(6667, 3333),
            metric="mean per class",
            template="a photo of a {}, a type of aircraft",
            archive=(
                "fgvc-aircraft-2013b",
                "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
            ),
            remark="trained on the published trainval list",
        ),
        CatalogTask(
            "birdsnap",
            "Birdsnap",
            classes=500,
            images=(47386, 2443),
            metric="top-1",
            template="a photo of a {}, a type of bird",
            remark="published as a list of addresses, of which many are gone; the numbers are those of the list",
        ),
        CatalogTask(
            "caltech101",
            "Caltech-101",
            classes=101,
            images=(3030, 5647),
            metric="mean per class",
            template=_PHOTO,
            tfds="caltech101",
            version="3",
            remark="30 training images per class; the background class is left out",
        ),
        CatalogTask(
            "caltech256",
            "Caltech-256",
            classes=256,
            images=(15360, 14420),
            metric="top-1",
            template=_PHOTO,
            archive=("256_ObjectCategories", "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar"),
            remark="no published split: 60 training images per class, those with the lowest SHA-256 of their path; no clutter",
        ),
        CatalogTask(
            "cars",
            "Stanford Cars",
            classes=196,
            images=(8144, 8041),
            metric="top-1",
            template=_PHOTO,
            tfds="cars196",
            version="2",
        ),
        CatalogTask(
            "cifar10",
            "CIFAR-10",
            classes=10,
            images=(50000, 10000),
            metric="top-1",
            template=_PHOTO,
            tfds="cifar10",
            version="3",
        ),
        CatalogTask(
            "cifar100",
            "CIFAR-100",
            classes=100,
            images=(50000, 10000),
            metric="top-1",
            template=_PHOTO,
            tfds="cifar100",
            version="3",
        ),
        CatalogTask(
            "cub200",
            "CUB-200-2011",
            classes=200,
            images=(5994, 5794),
            metric="top-1",
            template="a photo of a {}, a type of bird",
            tfds="caltech_birds2011",
            version="0",
        ),
        CatalogTask(
            "dogs",
            "Stanford Dogs",
            classes=120,
            images=(12000, 8580),
            metric="top-1",
            template="a photo of a {}, a type of dog",
            tfds="stanford_dogs",
            version="0",
        ),
        CatalogTask(
            "dtd",
            "Describable Textures, first split",
            classes=47,
            images=(3760, 1880),
            metric="top-1",
            template="a photo of a {} texture",
            tfds="dtd",
            version="3",
            train="train+validation",
        ),
        CatalogTask(
            "eurosat",
            "EuroSAT, RGB",
            classes=10,
            images=(21600, 5400),
            metric="top-1",
            template="a centered satellite photo of {}",
            tfds="eurosat/rgb",
            version="2",
            train="train[:21600]",
            test="train[21600:]",
            remark="no published split: as in the Visual Task Adaptation Benchmark, the last fifth is the test part",
        ),
        CatalogTask(
            "flowers102",
            "Oxford Flowers-102",
            classes=102,
            images=(2040, 6149),
            metric="mean per class",
            template="a photo of a {}, a type of flower",
            tfds="oxford_flowers102",
            version="2",
            train="train+validation",
        ),
        CatalogTask(
            "food101",
            "Food-101",
            classes=101,
            images=(75750, 25250),
            metric="top-1",
            template="a photo of {}, a type of food",
            tfds="food101",
            version="2",
            test="validation",
            remark="TFDS calls the published test part validation",
        ),
        CatalogTask(
            "imagenet",
            "ImageNet (ILSVRC 2012)",
            classes=1000,
            images=(1281167, 50000),
            metric="top-1",
            template=_PHOTO,
            tfds="imagenet2012",
            version="5",
            test="validation",
            remark="tested on the validation part, for the test part has no labels",
        ),
        CatalogTask(
            "imagenet_r",
            "ImageNet-R",
            classes=200,
            images=(0, 30000),
            metric="top-1",
            template=_PHOTO,
            tfds="imagenet_r",
            version="0",
            train="",
            remark="art, cartoons and other renditions of 200 of ImageNet's classes, to test on alone",
        ),
        CatalogTask(
            "imagenet_sketch",
            "ImageNet-Sketch",
            classes=1000,
            images=(0, 50889),
            metric="top-1",
            template="a sketch of a {}",
            tfds="imagenet_sketch",
            version="1",
            train="",
            remark="drawings of ImageNet's classes, to test on alone",
        ),
        CatalogTask(
            "pets",
            "Oxford-IIIT Pets, breeds",
            classes=37,
            images=(3680, 3669),
            metric="mean per class",
            template="a photo of a {}, a type of pet",
            tfds="oxford_iiit_pet",
            version="4",
            remark="trained on the published trainval list, which TFDS calls train",
        ),
        CatalogTask(
            "sun397",
            "SUN397, first partition",
            classes=397,
            images=(19850, 19850),
            metric="top-1",
            template=_PHOTO,
            tfds="sun397/standard-part1-120k",
            version="4",
        ),
    )
}


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
