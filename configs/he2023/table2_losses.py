"""Table 2 of He et al. 2023: cross-entropy (CE) against soft targets of the zero-shot head (SCE), on synthetic images alone.

    bridgejax run --config configs/he2023/table2_losses.py --workdir W               # the embedded task
    bridgejax run --config configs/he2023/table2_losses.py:eurosat --workdir W       # one data set in full

The paper, top-1 in %, CLIP RN50 zero-shot, then with the plain prompt (B), language enhancement (LE) and LE with the filter
(CF), each CE and SCE: CIFAR-10 70.31; 77.39, 78.23; 77.20, 77.55; 80.01, 80.06. CIFAR-100 35.35; 43.99, 44.25; 44.08, 44.91;
44.55, 45.69. EuroSAT 37.51; 45.64, 48.23; 53.26, 54.94; 54.75, 55.37.

`tuned_synthetic_quarter` has a quarter of the soft target, `tuned_synthetic_soft` nothing else: not in the paper. Ours has
the columns of B. At full size: not run.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import paper_config

FULL = ("cifar10", "cifar100", "eurosat")
WEIGHTS = {"tuned_synthetic_quarter": 0.25, "tuned_synthetic_soft": 1.0}  # arm → the soft target's share of the loss


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    for arm, weight in WEIGHTS.items():
        config.recipes[arm] = ({**config.recipes.tuned_synthetic[0], "soft_weight": weight},)
    config.arms = ("zero_shot", "tuned_synthetic_hard", "tuned_synthetic", *WEIGHTS)
    config.study.baseline = "zero_shot"
    config.task.shots = 1
    return config
