"""The volume figure of Li et al. 2024: accuracy over the number of synthetic images per class.

    bridgejax run --config configs/bridged_transfer/volume.py --workdir W                     # the embedded task
    bridgejax run --config configs/bridged_transfer/volume.py:food --workdir W                # one data set in full

The paper shows 500 to 3,000 images per class on Aircraft, Cars and Food (the exact grid is ours): monotone, not saturated,
with diminishing gains on Food; no values, no error bars. Every volume here takes the same number of steps, so that more
images are not more updates, which the paper does not separate.

Ours, on the embedded task: docs/results/paper_embedded.md, by `python -m benchmarks paper_embedded`. At full size: not run;
what that would cost is counted by `python -m benchmarks paper_cost` (docs/results/paper_cost.md).
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.bridged_transfer import paper_config, per_class

FULL = ("aircraft", "cars", "food")


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    config.arms = ("vanilla_long", "mixed", "bridged_plus_plus")
    config.study.per_class = tuple(per_class(config, images) for images in (500, 1000, 1500, 2000, 2500, 3000))
    return config
