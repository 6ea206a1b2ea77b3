"""Table 5 of He et al. 2023: what real images do for synthetic ones, of 16 shots.

    bridgejax run --config configs/he2023/table5_real_images.py --workdir W           # the embedded task
    bridgejax run --config configs/he2023/table5_real_images.py:eurosat --workdir W   # the paper's data set in full

The paper, EuroSAT with 16 shots, CLIP RN50, top-1 in %: basic 87.10, real filtering 87.33, real guidance 88.47.

All arms train the head on real and synthetic images at once. `basic`: from sentences, half of them, by the CLIP filter.
`filtered`: of these, the half that is most like the real images of its class; the paper names neither features nor a threshold,
ours are in docs/filter.md. `tuned_mix_guided`: images that start from the shots, in plain words. At full size: not run.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import SENTENCES, add_guidance, add_sentences, is_full, paper_config

FULL = ("eurosat",)


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    add_sentences(config)
    add_guidance(config)
    kept = f"quota:{config.synthetic.per_class // 2}"
    for arm, rules in (("basic", (kept,)), ("filtered", (kept, f"real_top:{config.synthetic.per_class // 4}"))):
        stage = {**config.recipes.tuned_mix[0], "synthetic_set": SENTENCES, "synthetic_filter": rules}
        config.recipes[arm] = (stage,)
    config.arms = ("tuned_real", "basic", "filtered", "tuned_mix_guided")
    config.study.baseline = "basic"
    config.task.shots = 16 if is_full(config) else 4
    return config
