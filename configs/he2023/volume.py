"""Tables A.13 and A.14 of He et al. 2023: how many synthetic images per class.

    bridgejax run --config configs/he2023/volume.py --workdir W                      # the embedded task
    bridgejax run --config configs/he2023/volume.py:cifar10 --workdir W              # one data set in full

The paper, CLIP RN50, top-1 in %: CIFAR-10 zero-shot with 0, 1000, 2000, 4000 images per class 70.31, 79.21, 80.06, 80.08;
EuroSAT with 16 shots and 0, 400, 800, 1600 images per class 85.83, 88.28, 88.47, 88.49.

Here every volume has the steps of the paper's passes over its own middle volume, so that images are compared and not steps.
At full size: not run.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import is_full, paper_config

FULL = ("cifar10", "eurosat")


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    few = arg == "eurosat"
    config.arms = ("tuned_real", "tuned_mix") if few else ("zero_shot", "tuned_synthetic")
    config.study.baseline = config.arms[0]
    config.task.shots = 16 if few else 1
    config.study.per_class = (16, 32, 64)
    if is_full(config):
        config.study.per_class = (400, 800, 1600) if few else (1000, 2000, 4000)
    return config
