"""Classifiers of the published sizes with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.accelerator_parts.filled import filled

_CONFIG = {"num_classes": 1000, "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9}}
EFFICIENTNET = "builtin:efficientnet_lite0"


def random_classifier(name: str, folder: Path, side: int, **arguments: Any) -> Any:
    """Returns a network of timm's name with random weights and 1000 classes; the embedded EfficientNet-Lite0 has its own.

    Args:
      name: timm's architecture, or `EFFICIENTNET`.
      folder: where its config is written.
      side: of the input in pixels.
      **arguments: timm's, for networks that are smaller than the published ones.
    """
    from bridgejax.models import load_classifier
    from bridgejax.models.registry import abstract_classifier

    if name == EFFICIENTNET:
        return load_classifier(name)
    if name.startswith("vit"):
        arguments = {"img_size": side, **arguments}
    place = folder / f"{name}_{side}"
    place.mkdir(exist_ok=True)
    config = {**_CONFIG, "pretrained_cfg": {**_CONFIG["pretrained_cfg"], "input_size": [3, side, side]}}
    (place / "config.json").write_text(json.dumps({"architecture": name, **config, "model_args": arguments}))
    return filled(abstract_classifier(place))
