"""What a tiny generator's images are worth, in three figures: accuracy of a classifier learned from them, recall, copies.

The accuracy on photographs is a report: nothing is chosen by it. What is chosen (guidance, steps) is chosen by the accuracy on
the emoji task of ``build_emoji_task.py``, whose pictures the generator has not seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import clipart_choice
import numpy as np
from PIL import Image

from bridgejax.evaluation import nearest_real, precision_recall

HERE = Path(__file__).resolve().parent


def on_white(picture: Image.Image) -> np.ndarray:
    """A picture as a square on white, uint8 [s, s, 3]."""
    side = max(picture.size)
    canvas = Image.new("RGB", (side, side), (255, 255, 255))
    canvas.paste(picture.convert("RGB"), ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(canvas)


def photographs() -> tuple[list[np.ndarray], np.ndarray]:
    """Every photograph of ``tux_photos`` and its class."""
    folder = HERE.parent / "bridgejax/assets/tux_photos"
    records = json.loads((folder / "index.json").read_text(encoding="utf-8"))["images"]
    pictures = []
    for record in records:
        with Image.open(folder / record["file"]) as opened:
            pictures.append(on_white(opened))
    return pictures, np.array([record["class"].replace("_", " ") for record in records])


def class_folders(root: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Every picture of a folder of class folders and its class."""
    pictures, names = [], []
    for path in sorted(root.glob("*/*.png")):
        with Image.open(path) as opened:
            pictures.append(on_white(opened))
        names.append(path.parent.name)
    if not pictures:
        raise SystemExit(f"{root}: no pictures; make them with tools/build_emoji_task.py --output {root}")
    return pictures, np.array(names)


def learned_accuracy(features: np.ndarray, labels: Sequence[str], test: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Logistic regression on generated images' features, tested on others': top-1, mean per class and each class, in [0, 1]."""
    from sklearn.linear_model import LogisticRegression

    known = np.isin(np.asarray(labels), np.unique(truth))
    classifier = LogisticRegression(C=30.0, max_iter=2000).fit(features[known], np.asarray(labels)[known])
    right = classifier.predict(test) == truth
    per_class = {str(name): round(float(right[truth == name].mean()), 3) for name in sorted(set(truth))}
    return {
        "top1": round(float(right.mean()), 4),
        "mean_per_class": round(float(np.mean(list(per_class.values()))), 4),
        "per_class": per_class,
    }


class Judge:
    """The tests and the features of what they compare with, made once."""

    def __init__(self, clipart: np.ndarray, emoji: Path | None = None):
        self.tests = {"photographs": photographs()}
        if emoji is not None:
            self.tests["emoji"] = class_folders(emoji)
        self.features = {name: clipart_choice.features(pictures) for name, (pictures, _) in self.tests.items()}
        self.clipart = clipart_choice.features(list(clipart))
        self.pixels = clipart.reshape(len(clipart), -1) / np.float32(255)

    def __call__(self, images: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
        """Figures in [0, 1] of images uint8 [n, 64, 64, 3]: accuracies by test, recall, share of suspected copies.

        Recall is the share of the clip art within the generated images' manifold (Kynkäänniemi et al. 2019, k = 3), both
        sets cut to one size. A copy is suspected where an image's pixels are nearer to a picture of the training set, or to
        its mirror image, than 1 % of those pictures are to their own nearest neighbour.
        """
        found = clipart_choice.features(list(images))
        out: dict[str, Any] = {}
        for name, (_, truth) in self.tests.items():
            out[name] = learned_accuracy(found, labels, self.features[name], truth)
        size = min(len(found), len(self.clipart))
        rng = np.random.default_rng(0)
        real = self.clipart[rng.permutation(len(self.clipart))[:size]]
        out["recall"] = round(precision_recall(real, found[rng.permutation(len(found))[:size]]).recall, 4)
        flat = images.reshape(len(images), -1) / np.float32(255)
        mirrored = images[:, :, ::-1].reshape(len(images), -1) / np.float32(255)
        near = [nearest_real(x, self.pixels, metric="pixels") for x in (flat, mirrored)]
        out["copies"] = round(float((near[0].suspected | near[1].suspected).mean()), 4)
        return out
