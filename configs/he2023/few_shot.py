"""Figure 1 of He et al. 2023: 1, 2, 4, 8 and 16 real images per class, with and without synthetic ones.

    bridgejax run --config configs/he2023/few_shot.py --workdir W                    # the embedded task
    bridgejax run --config configs/he2023/few_shot.py:eurosat --workdir W            # one data set in full

The paper gives this figure without numbers; read off it, top-1 in % of CLIP RN50 at 1, 2, 4, 8, 16 shots, within 0.4: SUN397,
tuned with synthetic images 63.8, 65.5, 67.5, 70.6, 72.2, on real ones alone 62.1, 63.5, 66.1, 69.2, 71.6, Tip-Adapter 62.5,
63.7, 66.2, 68.9, 71.5, CoOp 60.3, 59.6, 63.7, 65.6, 69.3, zero-shot 58.5. EuroSAT, with synthetic images 64.4, 73.6, 79.9,
84.6, 88.5, real ones alone 54.9, 63.2, 74.6, 79.7, 85.8, Tip-Adapter 59.5, 66.2, 74.1, 78, 84.6, CoOp 53.3, 61.5, 70.9, 78.4,
84.8, zero-shot 37.4.

`tuned_mix_guided` is the paper's method: its synthetic images start from the shots (real guidance). `tuned_mix` makes them from
the class names alone. Of these, `tuned_mix_filtered` keeps the half that is most like the shots of its class (real filtering,
docs/filter.md); `synthetic_then_real` and `real_then_synthetic` train on them before or after the shots, half of the steps each
(phase-wise). `tuned_real` is the paper's "CT w. init". Every arm that trains takes as many steps, and the result is that of the
last; nothing is augmented. At full size: not run; each count of shots and seed has 800 guided images per class of its own,
which take a half to a seventh of the time of images from noise.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import FEW_SHOT, add_few_shot_arms, paper_config, shots

FULL = FEW_SHOT


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    add_few_shot_arms(config)
    config.study.shots = shots(config)
    return config
