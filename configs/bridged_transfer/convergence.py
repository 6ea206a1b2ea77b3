"""The convergence figure of Li et al. 2024: accuracy over training steps, vanilla against the second stage of bridged.

    bridgejax run --config configs/bridged_transfer/convergence.py --workdir W                # the embedded task

The paper shows training accuracy on real images: bridged starts higher and converges faster; no values. Here the test part is
looked at along the way for every arm (it decides nothing), and the curves are in the report.

Ours, on the embedded task: docs/results/paper_embedded.md, by `python -m benchmarks paper_embedded`. At full size: not run;
what that would cost is counted by `python -m benchmarks paper_cost` (docs/results/paper_cost.md).
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.bridged_transfer import DATA_SETS, paper_config

FULL = tuple(DATA_SETS)


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    config.arms = ("vanilla_long", "bridged", "bridged_reset", "bridged_plus_plus")
    config.training.evaluations = 20
    return config
