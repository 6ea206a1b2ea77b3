"""The smallest study that tells whether synthetic images, extra steps or regularisers help: fourteen arms, five seeds.

    bridgejax run --config configs/bridged_transfer/minimum_design.py --workdir W             # the embedded task
    bridgejax run --config configs/bridged_transfer/minimum_design.py:folder:PATH --workdir W # another task, embedded models
    bridgejax run --config configs/bridged_transfer/minimum_design.py:cars --workdir W        # one data set in full

What it isolates: `vanilla_long` against `vanilla` is the effect of steps, `vanilla_mixup` that of Mixup, `real_reset_real`
that of two phases with a new head, all without a synthetic image; `mixed…` is the plain way to use the images, at its natural
share, at half, and at half with Mixup; `bridged…` are the paper's, with reset and Mixup each alone and together. The two last
are ++ on other images: with a word learned from the same shots that training sees (`_dsi`, dataset style inversion), and with
the same sentence and an untrained word (`_untrained`). All but `vanilla` take as many steps.

The paper gives numbers for vanilla, ++ and style inversion alone (table1_full.py, table3_dsi.py), and none of the controls.
Ours, on the embedded task and on product photographs of clothing: docs/results/minimum_design.md, by
`python -m benchmarks minimum_design`, which also chooses each arm's rate on a task of its own (":tuning:folder:PATH"). At full
size: not run. What it would cost at full size is counted by `python -m benchmarks paper_cost` (docs/results/paper_cost.md).
"""

from __future__ import annotations

import copy
from typing import Any

from bridgejax.papers.bridged_transfer import is_full, paper_config, style_inversion
from bridgejax.recipes import at_rate

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
OTHER_IMAGES = {"bridged_plus_plus_untrained": "untrained", "bridged_plus_plus_dsi": "dsi"}  # arm → synthetic set
RATES = (0.001, 0.003, 0.01)
# The best of RATES for each arm on another task (docs/results/minimum_design.md); what is not named takes 0.003. Arms that
# differ in their images alone share the rate of bridged_plus_plus.
TUNED: dict[str, float] = {
    "vanilla_long": 0.001,
    "real_reset_real": 0.01,
    "mixed_50": 0.001,
    "mixed_50_mixup": 0.001,
    "bridged": 0.001,
}


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`, or "tuning:" and one."""
    tuning, name = (arg or "").startswith("tuning:"), (arg or "").removeprefix("tuning:")
    config = paper_config(name or None)
    config.study.seeds = 5
    _add_other_images(config)
    if not is_full(config):
        config.classifier.image_size = 64  # pixels, what the embedded generator draws
        config.training.base_steps = 20
    if tuning:
        _add_candidates(config)
        return config
    config.arms = (*ARMS, *OTHER_IMAGES)
    if not is_full(config):
        for arm in config.arms:
            rate = TUNED.get("bridged_plus_plus" if arm in OTHER_IMAGES else arm)
            if rate is not None:
                config.recipes[arm] = at_rate(config.recipes[arm], rate)
    return config


def _add_other_images(config: Any) -> None:
    """Adds ++ on images of an untrained and of a learned word; the sentence is the same."""
    config.synthetic_sets.untrained = style_inversion(config, "untrained")
    config.synthetic_sets.dsi = style_inversion(config)
    synthetic, real = copy.deepcopy(config.recipes.bridged_plus_plus)
    for arm, name in OTHER_IMAGES.items():
        config.recipes[arm] = ({**synthetic, "synthetic_set": name}, dict(real))


def _add_candidates(config: Any) -> None:
    """Makes every arm three arms, one at each rate, with three seeds."""
    names = []
    for arm in ARMS:
        for rate in RATES:
            names.append(f"{arm}-{rate:.0e}".replace("e-0", "e-"))
            config.recipes[names[-1]] = at_rate(config.recipes[arm], rate)
    config.arms = tuple(names)
    config.study.baseline = names[0]
    config.study.seeds = 3
