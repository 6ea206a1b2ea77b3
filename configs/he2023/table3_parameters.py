"""Table 3 of He et al. 2023: how much of the network is tuned on synthetic images.

    bridgejax run --config configs/he2023/table3_parameters.py --workdir W           # the embedded task
    bridgejax run --config configs/he2023/table3_parameters.py:eurosat --workdir W   # the paper's data set in full

The paper, EuroSAT, CLIP RN50, top-1 in % by the share of parameters that train, in %: 0: 37.51, 0.02 (the head): 55.37,
0.04: 55.11, 62.50: 55.28, 64.06: 54.56, 69.53: 54.34, 82.81: 53.63, 92.19: 52.09.

The paper does not say which layers these shares are. Here the head and the last 1, 3, 9 and 13 of 16 blocks train, which in a
ResNet-50 are its last block and its last one, two and three stages, and at last the whole network, pooling included; all at the
head's rate, batch norms at rest. Beyond the head nothing is cached: each step passes through the encoder. At full size: not
run.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import CLIP_RN50, is_full, paper_config

FULL = ("eurosat",)
BLOCKS = {1: "15", 3: "1[3-5]", 9: "(7|8|9|1[0-5])", 13: "([3-9]|1[0-5])"}


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    stage = config.recipes.tuned_synthetic[0]
    for count, numbers in BLOCKS.items():
        config.recipes[f"tuned_{count}_blocks"] = ({**stage, "trainable": (rf"^(head|blocks\.{numbers})\.",)},)
    config.recipes.tuned_all = ({**stage, "trainable": ("all",)},)
    config.arms = ("zero_shot", "tuned_synthetic", *(f"tuned_{count}_blocks" for count in BLOCKS), "tuned_all")
    config.study.baseline = "zero_shot"
    config.task.shots = 1
    if is_full(config):
        config.classifier.weights = CLIP_RN50
    return config
