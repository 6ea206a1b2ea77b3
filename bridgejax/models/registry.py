"""Classifiers by folder or name: `load_classifier`, `save_classifier`, `reset_head`.

A classifier folder holds `config.json` (architecture, number of classes, preprocessing) and `model.safetensors` under the
names and in the layout of the published PyTorch file, so it opens in PyTorch too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from bridgejax.errors import UserError, nearest
from bridgejax.identity import derive_seed, folder_digest, write_json
from bridgejax.models.classifier import Preprocessing
from bridgejax.models.efficientnet_lite import EfficientNetLite
from bridgejax.models.initial import reset_head
from bridgejax.models.weights import Rule, assign, export, read_tensors, save_tensors

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUILTIN = {"builtin:efficientnet_lite0": ASSETS / "efficientnet_lite0"}
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

# Our paths differ from the published names by a leading underscore per module, and by PyTorch's words.
EFFICIENTNET_LITE_RULES = (
    Rule(r"head\.kernel", "_fc.weight", "linear"),
    Rule(r"head\.bias", "_fc.bias"),
    Rule(r"blocks\.(\d+)\.(\w+)\.kernel", r"_blocks.\1._\2.weight", "conv"),
    Rule(r"(\w+)\.kernel", r"_\1.weight", "conv"),
    Rule(r"blocks\.(\d+)\.(bn\d)\.scale", r"_blocks.\1._\2.weight"),
    Rule(r"blocks\.(\d+)\.(bn\d)\.bias", r"_blocks.\1._\2.bias"),
    Rule(r"blocks\.(\d+)\.(bn\d)\.(mean|var)", r"_blocks.\1._\2.running_\3"),
    Rule(r"(bn\d)\.scale", r"_\1.weight"),
    Rule(r"(bn\d)\.bias", r"_\1.bias"),
    Rule(r"(bn\d)\.(mean|var)", r"_\1.running_\2"),
)
ARCHITECTURES: dict[str, tuple[type[EfficientNetLite], tuple[Rule, ...]]] = {
    EfficientNetLite.architecture: (EfficientNetLite, EFFICIENTNET_LITE_RULES),
}


def load_classifier(folder_or_name: str | Path, num_classes: int | None = None, seed: int = 0) -> EfficientNetLite:
    """Loads a classifier with its weights, in evaluation mode.

    Args:
      folder_or_name: `builtin:efficientnet_lite0`, or a folder that `save_classifier` wrote.
      num_classes: outputs wanted; None keeps the file's. Another number than the file's gives a new head, made from `seed`.
      seed: of the new head.

    Returns:
      The model: `model(images)` are logits, `.features(images)` what the head sees, `.preprocessing` what images must be,
      `.num_classes`, `.head`.

    Raises:
      UserError: the folder, its config or its weights are missing, damaged or do not fit together.
    """
    folder = _folder(folder_or_name)
    architecture, classes, preprocessing = _read_config(folder / CONFIG_FILE)
    if num_classes is not None and num_classes < 1:
        raise UserError(f"num_classes is {num_classes}; a classifier needs at least 1 class.")
    build, rules = ARCHITECTURES[architecture]
    weights = folder / WEIGHTS_FILE
    tensors = read_tensors(weights if weights.is_file() else folder)
    abstract = nnx.eval_shape(lambda: build(classes, preprocessing, rngs=nnx.Rngs(0)))
    model = assign(abstract, tensors, rules, str(weights))
    if num_classes is not None and num_classes != classes:
        reset_head(model, jax.random.key(derive_seed(seed, "head")), num_classes)
    return model


def abstract_classifier(folder_or_name: str | Path) -> EfficientNetLite:
    """Returns a classifier of shapes and dtypes without weights (`nnx.eval_shape`), as its config says."""
    architecture, classes, preprocessing = _read_config(_folder(folder_or_name) / CONFIG_FILE)
    return nnx.eval_shape(lambda: ARCHITECTURES[architecture][0](classes, preprocessing, rngs=nnx.Rngs(0)))


def classifier_digest(folder_or_name: str | Path) -> str:
    """Returns the SHA-256 of what decides a classifier: its config and its weights.

    Raises:
      UserError: the folder or one of its files is missing.
    """
    folder = _folder(folder_or_name)
    _read_config(folder / CONFIG_FILE)
    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(f"{folder / WEIGHTS_FILE} is missing; a classifier folder needs it beside {CONFIG_FILE}.")
    return folder_digest(folder, (CONFIG_FILE, WEIGHTS_FILE))


def save_classifier(model: EfficientNetLite, folder: str | Path) -> None:
    """Writes `model` as a folder that `load_classifier` and, by its tensors, the PyTorch original read.

    Args:
      model: a classifier with concrete weights.
      folder: made if absent; files of the same names are replaced.

    Raises:
      UserError: the folder cannot be written, or a weight is not finite (a diverged run is not saved).
    """
    target = Path(folder)
    _, rules = ARCHITECTURES[model.architecture]
    tensors = export(model, rules)
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"tensor {name} holds NaN or infinity, so {target} was not written; train with a lower learning rate."
            )
    # PyTorch counts batches beside its running statistics; with a fixed momentum the count is never used.
    for name in [name for name in tensors if name.endswith("running_var")]:
        tensors[name.removesuffix("running_var") + "num_batches_tracked"] = np.zeros((), np.int64)
    preprocessing = model.preprocessing
    config = {
        "architecture": model.architecture,
        "num_classes": model.num_classes,
        "preprocessing": {
            "size": preprocessing.size,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "crop": preprocessing.crop,
        },
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target} could not be made ({error.strerror}); choose a folder that can be written.") from error
    save_tensors(target / WEIGHTS_FILE, tensors)
    write_json(target / CONFIG_FILE, config)


def _folder(folder_or_name: str | Path) -> Path:
    name = str(folder_or_name)
    if name in BUILTIN:
        return BUILTIN[name]
    if name.startswith("builtin:"):
        raise UserError(f"classifier {name!r} is not built in; expected one of {', '.join(BUILTIN)}{nearest(name, BUILTIN)}.")
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(
            f"classifier folder {name!r} does not exist; give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, "
            f"or {', '.join(BUILTIN)}."
        )
    return folder


def _read_config(file: Path) -> tuple[str, int, Preprocessing]:
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing; a classifier folder needs {CONFIG_FILE} beside {WEIGHTS_FILE}.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not readable JSON ({error}); write the folder again with save_classifier.") from error
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{file}: architecture {architecture!r} is not known; expected one of {known}.")
    try:
        classes = int(config["num_classes"])
        wanted = config["preprocessing"]
        mean, std = (tuple(float(value) for value in wanted[key]) for key in ("mean", "std"))
        preprocessing = Preprocessing(int(wanted["size"]), _three(mean), _three(std), float(wanted["crop"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} must hold num_classes and preprocessing with size, mean (3 numbers), std (3 numbers) and crop; "
            f"got a wrong or missing {error}."
        ) from error
    if classes < 1 or preprocessing.size < 1 or min(preprocessing.std) <= 0 or not 0 < preprocessing.crop <= 1:
        raise UserError(f"{file}: num_classes and size must be at least 1, std above 0 and crop in (0, 1]; correct the file.")
    return str(architecture), classes, preprocessing


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    if len(values) != 3:
        raise ValueError(f"list of {len(values)} numbers")
    return values[0], values[1], values[2]
