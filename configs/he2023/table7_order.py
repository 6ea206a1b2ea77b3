"""Table 7 of He et al. 2023: synthetic and real images in one batch, or one after the other.

    bridgejax run --config configs/he2023/table7_order.py --workdir W                # the embedded task
    bridgejax run --config configs/he2023/table7_order.py:eurosat --workdir W        # the paper's data set in full

The paper, EuroSAT, CLIP RN50, top-1 in % of synthetic then real, real then synthetic, and mixed: 1 shot 63.01, 63.32, 64.36;
2 shots 72.24, 72.85, 73.62; 4 shots 78.88, 79.21, 79.88; 8 shots 83.64, 83.99, 84.57; 16 shots 87.10, 87.44, 88.47.

The phases have the length of `tuned_mix` each, as in the paper (30 epochs, then 30), so those arms take twice its steps;
`tuned_mix_long` takes as many. The paper's synthetic images are made from the shots (real guidance); these are made from the
class names. At full size: not run.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import paper_config, shots

FULL = ("eurosat",)


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    config.recipes.tuned_mix_long = ({**config.recipes.tuned_mix[0], "length": 2.0},)
    config.arms = ("tuned_synthetic_real", "tuned_real_synthetic", "tuned_mix", "tuned_mix_long")
    config.study.baseline = "tuned_mix"
    config.study.shots = shots(config)
    return config
