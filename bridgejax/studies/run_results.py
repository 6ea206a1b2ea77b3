"""What runs leave in a workdir: a record each below `runs/`, their lines in `results.jsonl`, the account of time."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bridgejax.errors import UserError
from bridgejax.files import write_atomic, write_json

RUNS_FOLDER = "runs"
RESULT_FILE = "result.json"
CHECKPOINTS = "checkpoints"  # in a run's folder, until there is a result
EVENTS = "tensorboard"  # in a run's folder, where training.tensorboard asks for them
RESULTS_FILE = "results.jsonl"
SECONDS_FILE = "seconds.json"

ACCURACY = "test_accuracy"
MEAN_PER_CLASS = "test_mean_per_class_accuracy"
METRICS = (MEAN_PER_CLASS, ACCURACY)
_LINE_KEYS = ("arm", "seed", "shots", "volume")  # what tells the lines of results.jsonl apart


@dataclass(frozen=True)
class HistoryPoint:
    """An entry of a run's history: the loss, or the accuracies in [0, 1] of the test part, after a step of a stage."""

    step: int
    stage: int | None = None
    test_accuracy: float | None = None
    test_mean_per_class_accuracy: float | None = None


@dataclass(frozen=True)
class RunResultRecord:
    """A line of `results.jsonl`; what a line does not hold is None or empty."""

    # arm, seed: of the run
    arm: str
    seed: int
    # test_accuracy, test_mean_per_class_accuracy: in [0, 1]
    test_accuracy: float
    test_mean_per_class_accuracy: float
    shots: int | None = None  # real images per class, None for all
    per_class: int | None = None  # synthetic images per class that the run trained on
    volume: int | None = None  # synthetic images per class of the study's setting that the line belongs to
    task: str | None = None  # its name
    classes: tuple[str, ...] = ()  # their names
    # real_images, test_images: how many
    real_images: int | None = None
    test_images: int | None = None
    test_ids: tuple[str, ...] = ()  # of every test image
    test_labels: tuple[int, ...] | None = None  # the true class of each
    correct: tuple[int, ...] = ()  # 1 or 0 for each
    per_class_accuracy: tuple[float | None, ...] | None = None  # None for a class without test images
    confusion: tuple[tuple[int, ...], ...] | None = None  # counts, rows by true class
    train_steps: int | None = None  # optimiser steps
    history: tuple[HistoryPoint, ...] = ()  # in order
    seconds: Mapping[str, float] = field(default_factory=dict)  # what the run's time was spent on

    @classmethod
    def from_json(cls, text: str) -> RunResultRecord:
        """Reads a line.

        Raises:
          ValueError, TypeError, KeyError: it is not a run.
        """
        line = json.loads(text)
        for metric in METRICS:
            if not isinstance(line[metric], (int, float)):
                raise ValueError(f"{metric} is not a number")
        if not isinstance(line["arm"], str) or not isinstance(line["seed"], int):
            raise ValueError("arm is not a text or seed not a whole number")
        entries = (
            HistoryPoint(int(entry["step"]), entry.get("stage"), *(entry.get(metric) for metric in (ACCURACY, MEAN_PER_CLASS)))
            for entry in line.get("history") or ()
        )
        rows, accuracies, labels = line.get("confusion"), line.get("per_class_accuracy"), line.get("test_labels")
        return cls(
            arm=line["arm"],
            seed=line["seed"],
            test_accuracy=line[ACCURACY],
            test_mean_per_class_accuracy=line[MEAN_PER_CLASS],
            **{
                key: line.get(key)
                for key in ("shots", "per_class", "volume", "task", "real_images", "test_images", "train_steps")
            },
            classes=tuple(line.get("classes") or ()),
            test_ids=tuple(line.get("test_ids") or ()),
            test_labels=None if labels is None else tuple(int(label) for label in labels),
            correct=tuple(line.get("correct") or ()),
            per_class_accuracy=None
            if accuracies is None
            else tuple(None if value is None or math.isnan(value) else float(value) for value in accuracies),
            confusion=None if rows is None else tuple(tuple(int(count) for count in row) for row in rows),
            history=tuple(entries),
            seconds={str(name): value for name, value in (line.get("seconds") or {}).items() if value is not None},
        )

    def metric(self, name: str) -> float:
        """Returns one of `METRICS`, in [0, 1]."""
        return self.test_accuracy if name == ACCURACY else self.test_mean_per_class_accuracy


def read_results(workdir: str | Path) -> list[RunResultRecord]:
    """Returns the runs of a workdir's `results.jsonl`, in its order.

    Raises:
      UserError: there are no results, or a line is not a run.
    """
    file = Path(workdir) / RESULTS_FILE
    advice = f"run `bridgejax run --config FILE.py --workdir {workdir}` first"
    if not file.is_file():
        raise UserError(f"{file} is missing, so there is nothing to report; {advice}.")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); delete it and run the study again to rebuild it.") from error
    results = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            results.append(RunResultRecord.from_json(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{file} line {number} is not a run (an object with the text arm, the whole number seed, and the numbers "
                f"{' and '.join(METRICS)}); delete the file and run the study again to rebuild it."
            ) from error
    if not results:
        raise UserError(f"{file} holds no runs, so there is nothing to report; {advice}.")
    return results


def read_run_record(folder: Path, identity: str) -> dict[str, object]:
    """Returns the record of a run's folder; empty unless it is there, whole and of this identity."""
    try:
        record = json.loads((folder / RESULT_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and record.get("identity") == identity else {}


def write_results(workdir: Path, results: Iterable[Mapping[str, object]]) -> bool:
    """Writes `results.jsonl`; returns whether that changed it."""
    text = "".join(json.dumps(result, sort_keys=True) + "\n" for result in results)
    file = workdir / RESULTS_FILE
    if file.is_file() and file.read_text() == text:
        return False
    write_atomic(file, text)
    return True


def update_results(workdir: Path, results: Sequence[Mapping[str, object]]) -> None:
    """Writes these lines in place of what the workdir has of the same runs; its other lines stay."""
    file, lines = workdir / RESULTS_FILE, {}
    for line in file.read_text().splitlines() if file.is_file() else ():
        with contextlib.suppress(ValueError, AttributeError):  # a damaged line is left out
            known = json.loads(line)
            lines[tuple(known.get(key) for key in _LINE_KEYS)] = known
    added = {tuple(result.get(key) for key in _LINE_KEYS): result for result in results}
    write_results(workdir, {**lines, **added}.values())


def add_seconds(workdir: Path, name: str, seconds: float) -> None:
    """Adds to the workdir's account of time, over every command that worked on it."""
    file = workdir / SECONDS_FILE
    account: dict[str, float] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # a damaged account begins anew
        account = dict(json.loads(file.read_text()))
    write_json(file, {**account, name: round(account.get(name, 0.0) + seconds, 3)})
