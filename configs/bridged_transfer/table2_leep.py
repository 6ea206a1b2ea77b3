"""Table 2 of Li et al. 2024: LEEP of the pretrained network and of the network after the synthetic stage.

    bridgejax run --config configs/bridged_transfer/table2_leep.py --workdir W                # the embedded task

The paper's numbers: Aircraft, ResNet-18: -4.30 (ImageNet) to -3.41 (after fine-tuning on synthetic images); it improves on ten
of ten data sets, the other nine values are not known. The two are not alike: the first is over 1,000 source classes, the
second over the target's own; the matched score beside it gives every network as many outputs. The report holds both, for the
pretrained network and after the synthetic stage with and without Mixup (`report.leep`).

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
    config.arms = ("vanilla_long", "bridged", "bridged_plus_plus")
    config.report.leep = True
    return config
