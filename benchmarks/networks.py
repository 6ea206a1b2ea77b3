"""The classifiers that are compared with PyTorch's: their sizes, batches and folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flops import CLASSES

SIZES = (64, 96, 224)


@dataclass(frozen=True)
class Network:
    """A classifier.

    Attributes:
      title: as tables call it.
      architecture: as its `config.json` calls it.
      batches: images at once by size in pixels, so that a step of a small machine takes 0.05 to 3 seconds.
      convolutional: PyTorch's side gets its images with the channels last.
      peer: the library of PyTorch's side.
    """

    title: str
    architecture: str
    batches: Mapping[int, int]
    convolutional: bool
    peer: str = "timm"


NETWORKS = {
    "resnet18": Network("ResNet-18", "resnet18", {64: 32, 96: 32, 224: 16}, True),
    "resnet50": Network("ResNet-50", "resnet50", {64: 16, 96: 16, 224: 8}, True),
    "efficientnet_lite0": Network(
        "EfficientNet-Lite0", "efficientnet_lite0", {64: 32, 96: 32, 224: 32}, True, "efficientnet_lite_pytorch"
    ),
    "vit_s16": Network("ViT-S/16", "vit_small_patch16_224", {64: 16, 96: 16, 224: 16}, False),
    "vit_b16": Network("ViT-B/16", "vit_base_patch16_224", {64: 16, 96: 16, 224: 8}, False),
}
QUICK = ("resnet18", "vit_s16")


def write_config(name: str, size: int, folder: Path) -> None:
    """Writes the `config.json` of a network for `size` pixels, a vision transformer's positions included."""
    network = NETWORKS[name]
    look = {"mean": [0.5] * 3, "std": [0.5] * 3}
    config: dict[str, object] = {"architecture": network.architecture, "num_classes": CLASSES}
    if network.peer == "timm":
        config["pretrained_cfg"] = {"input_size": [3, size, size], "crop_pct": 0.875, **look}
        if not network.convolutional:
            config["model_args"] = {"img_size": size}
    else:
        config["preprocessing"] = {"size": size, "crop": 0.875, **look}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
