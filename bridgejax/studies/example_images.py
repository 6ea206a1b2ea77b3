"""A few real and synthetic images per class, kept for the report's contact sheet (`examples.npz`)."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bridgejax.data import Examples
from bridgejax.data.pixels import decode_example
from bridgejax.files import write_atomic
from bridgejax.studies.study_plan import StudyPlan

EXAMPLES_FILE = "examples.npz"
PER_CLASS = 4
SIZE = 96


def write_examples(plan: StudyPlan, workdir: Path) -> None:
    """Writes the first images of each class: those that the first seed trains on, at the study's most shots, and those of the
    task's first synthetic set.

    With the latter goes the prompt and the seed of each, text [classes, k].
    """
    from bridgejax.data.synthetic import synthetic_captions, synthetic_examples

    first = max(plan.runs, key=lambda run: math.inf if run.shots is None else run.shots)  # of several the first
    arrays = {"real": contact_sheet(plan.task(first.shots, first.seed).train, len(plan.class_names))}
    if of_task := {name: each for name, each in plan.sets.items() if each.is_of_task}:
        shown = of_task.get("") or next(iter(of_task.values()))
        folder = workdir / shown.folder(first.shots, first.seed)
        examples = synthetic_examples(folder, class_names=plan.class_names, per_class=min(PER_CLASS, plan.per_class))
        arrays["synthetic"] = contact_sheet(examples, len(plan.class_names))
        captions = synthetic_captions(folder)
        arrays["synthetic_captions"] = np.asarray(
            [[captions.get(f"{name}/{index}", "") for index in range(PER_CLASS)] for name in plan.class_names]
        )
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, class_names=np.asarray(plan.class_names), **arrays)
    write_atomic(workdir / EXAMPLES_FILE, buffer.getvalue())


def contact_sheet(examples: Examples, classes: int) -> np.ndarray:
    """Returns uint8 [classes, k, size, size, 3]: images fitted into white squares; white where a class has fewer than k."""
    sheet = np.full((classes, PER_CLASS, SIZE, SIZE, 3), 255, np.uint8)
    for label in range(classes):
        for column, index in enumerate(np.flatnonzero(examples.labels == label)[:PER_CLASS]):
            image = Image.fromarray(decode_example(examples, int(index)))
            sheet[label, column] = np.asarray(ImageOps.pad(image, (SIZE, SIZE), color="white"))
    return sheet
