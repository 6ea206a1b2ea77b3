"""The few-shot figure of Li et al. 2024: 1, 2, 4, 8 and 16 real images per class.

    bridgejax run --config configs/bridged_transfer/few_shot.py --workdir W                   # the embedded task
    bridgejax run --config configs/bridged_transfer/few_shot.py:cars --workdir W              # one data set in full

The paper: gains of up to 30 % (abstract), up to 60 % on Cars with 4 shots (relative or absolute is not said); largest at 4 to
8 shots; no base accuracies. Every seed here draws its own support set, and a learned word must see those shots alone.

Ours, on the embedded task: docs/results/paper_embedded.md, by `python -m benchmarks paper_embedded`. At full size: not run;
what that would cost is counted by `python -m benchmarks paper_cost` (docs/results/paper_cost.md). The quick start
(docs/results/quickstart.md) runs more arms at 1 and 4 shots.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.bridged_transfer import DATA_SETS, full_steps, is_full, paper_config

FULL = tuple(DATA_SETS)


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    config.arms = ("vanilla_long", "mixed", "bridged_plus_plus")
    if is_full(config):
        config.study.shots = (1, 2, 4, 8, 16)
        config.training.base_steps = full_steps(16 * DATA_SETS[str(arg)].classes)  # the same for every count of shots
    else:
        config.study.shots = (1, 2, 4, 8)  # some embedded classes have too few images for 16
    return config
