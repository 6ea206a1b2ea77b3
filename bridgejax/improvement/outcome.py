"""What `bridgejax.improve` returns."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from bridgejax.data import Examples, eval_batches
from bridgejax.data.images import encode_png
from bridgejax.data.stored import FileImages
from bridgejax.errors import UserError
from bridgejax.models import load_classifier
from bridgejax.models.classifier import Classifier
from bridgejax.prompts import display_name
from bridgejax.report.charts import data_uri
from bridgejax.report.phrases import counted, percent, points
from bridgejax.studies.example_images import EXAMPLES_FILE

_BATCH = 64
_SHOWN_CLASSES, _SHOWN_SIZE = 6, 64

Pictures = str | Path | npt.NDArray[np.uint8] | Sequence[str | Path | npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Improved:
    """The better classifier, and how it was found.

    Attributes:
      arm: the recipe that the validation images chose; "vanilla_long" and "vanilla_long_head" are without generated images,
        and where a name ends in "_head", the head alone was trained.
      accuracy: of `classifier` on the test images: the mean over classes, in [0, 1].
      baseline_accuracy: the same of the best recipe, by validation, on the photographs alone.
      validation_accuracy: by recipe, what the choice was made by; the mean over classes and draws, in [0, 1].
      validation_images: how many these were, each counted once in every draw that it was in.
      finding: what the study found, in a paragraph.
      class_names: in the order of the classifier's outputs.
      image_size: side of the images that the classifier was trained on, in pixels.
      folder: of the classifier's weights, which `load_classifier` reads.
      report: the page with every figure.
    """

    arm: str
    accuracy: float
    baseline_accuracy: float
    validation_accuracy: Mapping[str, float]
    validation_images: int
    finding: str
    class_names: tuple[str, ...]
    image_size: int
    folder: Path
    report: Path

    @cached_property
    def classifier(self) -> Classifier:
        """The trained network: `classifier(images)` gives logits; it has `.preprocessing` and `.class_names`."""
        return load_classifier(self.folder)

    def predict(self, pictures: Pictures) -> list[str]:
        """Returns the class of each picture, seen as the test images were.

        Args:
          pictures: a path, an array uint8 [h, w, 3], or several of them.

        Raises:
          UserError: a picture is missing, cannot be read or is no such array.
        """
        from bridgejax.training import make_eval_step

        one = isinstance(pictures, str | Path) or (isinstance(pictures, np.ndarray) and pictures.ndim == 3)
        listed: list[object] = [pictures] if one else list(cast("Iterable[object]", pictures))
        if not listed:
            return []
        encoded = tuple(_encoded(picture) for picture in listed)
        names = tuple(str(picture) if isinstance(picture, str | Path) else f"picture {i}" for i, picture in enumerate(listed))
        examples = Examples(encoded, np.zeros(len(encoded), np.int32), names)
        step, model = make_eval_step(), self.classifier
        classes: list[str] = []
        batches = eval_batches(examples, batch_size=_BATCH, image_size=self.image_size, crop=model.preprocessing.crop)
        for batch in batches:
            logits = np.asarray(step(model, {"image": batch["image"]})["logits"])[batch["mask"] > 0]
            classes += [self.class_names[index] for index in logits.argmax(axis=1)]
        return classes

    def show(self) -> None:
        """Shows the finding: with pictures in a notebook, as text elsewhere."""
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is not None and shell.__class__.__name__ != "TerminalInteractiveShell":
            from IPython.display import display

            display(self)
        else:
            print(self)

    def __str__(self) -> str:
        """Returns the outcome in a few lines."""
        chosen, gain = counted(self.validation_images, "validation image"), points(self.accuracy - self.baseline_accuracy)
        return (
            f"{self.arm}, chosen by {chosen}: {percent(self.accuracy)} mean per-class accuracy on the test images, {gain} "
            f"points against the best on the photographs alone.\n{self.finding}\nReport: {self.report}"
        )

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the outcome, and real images beside generated ones."""
        lines = "".join(f"<p>{escape(line)}</p>" for line in str(self).splitlines())
        return f"<div>{lines}{self._sheet()}</div>"

    def _sheet(self) -> str:
        file = self.report.parent / EXAMPLES_FILE
        if not file.is_file():
            return ""
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        kinds = [(key, word) for key, word in (("real", "real"), ("synthetic", "generated")) if key in arrays]
        heads = "".join(f'<th style="text-align:left">{word}</th>' for _, word in kinds)
        rows = ""
        for index, name in enumerate(arrays["class_names"][:_SHOWN_CLASSES]):
            cells = "".join(f'<td><img alt="" src="{_strip(arrays[key][index])}"></td>' for key, _ in kinds)
            rows += f'<tr><th style="text-align:left">{escape(display_name(str(name)))}</th>{cells}</tr>'
        return f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _strip(images: npt.NDArray[np.uint8]) -> str:
    """Returns images, uint8 [k, h, w, 3], side by side as a data URI."""
    from PIL import Image

    small = [np.asarray(Image.fromarray(image).resize((_SHOWN_SIZE, _SHOWN_SIZE))) for image in images]
    return data_uri(np.concatenate([np.pad(image, ((0, 0), (0, 4), (0, 0)), constant_values=255) for image in small], axis=1))


def _encoded(picture: object) -> bytes:
    if isinstance(picture, str | Path):
        return FileImages([Path(picture)])[0]
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[-1] == 3:
        return encode_png(picture)
    kind = f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else type(picture).__name__
    raise UserError(f"a picture is {kind}; give paths of image files, or arrays uint8 [h, w, 3].")
