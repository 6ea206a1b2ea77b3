"""The guidance study of Li et al. 2024 (its section 4.3): accuracy over the scale of classifier-free guidance.

    bridgejax run --config configs/bridged_transfer/guidance.py:embedded,3 --workdir W        # the embedded task, scale 3
    bridgejax run --config configs/bridged_transfer/guidance.py:cars,7.5 --workdir W          # one data set in full

The paper claims robustness; neither its grid nor its numbers are known. Ours: 1.5, 2, 3, 5, 7.5 and 10, each a set of its own
and so a workdir of its own.

Ours, on the embedded task: docs/results/paper_embedded.md, by `python -m benchmarks paper_embedded`. At full size: not run;
what that would cost is counted by `python -m benchmarks paper_cost` (docs/results/paper_cost.md).
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.bridged_transfer import paper_config

FULL = tuple(f"{name},{scale:g}" for name in ("aircraft", "cars", "dtd") for scale in (1.5, 2, 3, 5, 7.5, 10))


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set (or "embedded", the default), and after a comma the guidance scale."""
    name, _, scale = (arg or "embedded").partition(",")
    config = paper_config(name)
    config.arms = ("vanilla_long", "bridged_plus_plus")
    if scale:
        config.generator.guidance_scale = float(scale)
    return config
