"""Table 6 of He et al. 2023: batch norms at rest, and by the statistics of the batch, while the head is tuned.

    bridgejax run --config configs/he2023/table6_batch_norm.py --workdir W           # the embedded task
    bridgejax run --config configs/he2023/table6_batch_norm.py:eurosat --workdir W   # the paper's data set in full

The paper, EuroSAT with 16 shots, CLIP RN50, top-1 in %: real images, not frozen 75.31, frozen 85.63; synthetic images, not
frozen 44.73, frozen 55.37.

An encoder whose batch norms move sees the same image differently at each step, so those arms train on images, not on cached
features. A vision transformer has no batch norm: at full size the config asks for CLIP RN50. At full size: not run.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import CLIP_RN50, is_full, paper_config

FULL = ("eurosat",)


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    arms = ("tuned_real", "tuned_synthetic")
    for arm in arms:
        config.recipes[f"{arm}_moving"] = ({**config.recipes[arm][0], "batch_norm": "train"},)
    config.arms = tuple(name for arm in arms for name in (arm, f"{arm}_moving"))
    config.study.baseline = "tuned_real"
    config.task.shots = 4
    if is_full(config):
        config.task.shots = 16
        config.classifier.weights = CLIP_RN50
    return config
