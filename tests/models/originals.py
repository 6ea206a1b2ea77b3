"""The PyTorch originals on random weights of reduced size, written as published folders."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import peers

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 5


def import_timm() -> Any:
    """Imports timm, without torchvision where that is missing; skips the test where timm or PyTorch is not installed."""
    for package in ("torch", "timm"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return peers.import_timm()


def randomise(model: Any, seed: int = 0) -> Any:
    """Gives every parameter and running statistic of a torch model values that matter, in place; evaluation mode."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(0.5 + noise.abs())
            elif name.endswith("logit_scale"):
                value.fill_(1.5)
            elif value.ndim >= 2 and not any(word in name for word in ("token", "pos", "embedding")):
                value.copy_(noise * (1.4 / np.sqrt(value[0].numel())))
            elif name.endswith("weight") and value.ndim == 1:
                value.copy_(1 + 0.3 * noise)
            else:
                value.copy_(0.3 * noise)
    return model.eval()


def write_preprocessor(folder: Path, **content: Any) -> None:
    """Writes a `preprocessor_config.json` as the published ones are."""
    base = {"do_normalize": True, "do_resize": True, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps({**base, **content}))


def timm_folder(folder: Path, name: str, **arguments: Any) -> Any:
    """Writes a random timm model as timm's own exporter does, and returns it."""
    timm = import_timm()
    from timm.models._hub import save_for_hf

    model = randomise(timm.create_model(name, num_classes=CLASSES, **arguments))
    save_for_hf(model, str(folder), safe_serialization=True)
    return model


def both(run: Any, model: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns run(model, images) in float32 and in float64; images [n, h, w, 3]."""
    import torch

    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return run(model, x).numpy(), run(copy.deepcopy(model).double(), x.double()).numpy()


def rounding(single: np.ndarray, exact: np.ndarray) -> float:
    """Float32's own error here, as PyTorch shows it; ours sums in another order, so four times that is allowed."""
    return 4 * float(np.abs(single - exact).max()) + 1e-6 * float(np.abs(exact).max())


def transformers_folder(folder: Path, family: str, kind: str = "ForImageClassification", **config: Any) -> Any:
    """Writes a random transformers model as the library does, with a `preprocessor_config.json`, and returns it."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    classes = {} if family == "CLIP" else {"num_labels": CLASSES}
    settings = getattr(transformers, f"{family}Config")(**config, **classes)
    model = randomise(getattr(transformers, f"{family}{kind}")(settings))
    model.save_pretrained(folder)
    if family == "ResNet":
        write_preprocessor(folder, size={"shortest_edge": 224}, crop_pct=0.875)
    elif family == "ViT":
        write_preprocessor(folder, size={"height": 32, "width": 32})
    else:
        write_preprocessor(folder, size={"shortest_edge": 36}, do_center_crop=True, crop_size={"height": 32, "width": 32})
    return model
