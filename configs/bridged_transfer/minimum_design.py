"""The smallest study that tells whether synthetic images, extra steps or regularisers help: twelve arms, five seeds.

    bridgejax run --config configs/bridged_transfer/minimum_design.py --workdir W             # the embedded task
    bridgejax run --config configs/bridged_transfer/minimum_design.py:folder:PATH --workdir W # another task, embedded models
    bridgejax run --config configs/bridged_transfer/minimum_design.py:cars --workdir W        # one data set in full

What it isolates: `vanilla_long` against `vanilla` is the effect of steps, `vanilla_mixup` that of Mixup, `real_reset_real`
that of two phases with a new head, all without a synthetic image; `mixed…` is the plain way to use the images, at its natural
share, at half, and at half with Mixup; `bridged…` are the paper's, with reset and Mixup each alone and together. All but
`vanilla` take as many steps. The paper gives numbers for vanilla and ++ alone (table1_full.py), and none of the controls.

The two arms with other images belong to workdirs of their own, since a set of images is a workdir's: ++ with a learned word
(style inversion), and ++ with the same sentence and an untrained word. `:TASK,WORD` gives their config: the arms of `WORDED`,
with `prompts.template` naming the word that `bridgejax invert` wrote.

Ours on the embedded task and on another small one: docs/results. At full size: not run. What it would cost at full size is
counted by `python benchmarks/paper_cost.py` (docs/results/paper_cost.md).
"""

from __future__ import annotations

from typing import Any

from bridgejax.studies.paper import paper_config

FULL = ("aircraft", "cars", "dtd")

ARMS = (
    "vanilla",
    "vanilla_long",
    "vanilla_mixup",
    "real_reset_real",
    "synthetic_only",
    "mixed",
    "mixed_50",
    "mixed_50_mixup",
    "bridged",
    "bridged_reset",
    "bridged_mixup",
    "bridged_plus_plus",
)
# On images of another prompt; the control takes none, so that both workdirs can be compared with it.
WORDED = ("vanilla_long", "bridged_plus_plus")


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`; ",WORD" adds a style."""
    name, comma, word = (arg or "").partition(",")
    config = paper_config(name or None)
    config.arms = ARMS
    config.study.seeds = 5
    if comma:
        config.arms = WORDED
        config.prompts.template = f"a {{}} photo in the style of {word}"
    return config
