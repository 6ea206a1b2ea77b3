"""Table 3 of Li et al. 2024: one prompt template against dataset style inversion, with bridged transfer ++.

    bridgejax run --config configs/bridged_transfer/table3_dsi.py --workdir W                 # the template's half
    bridgejax run --config configs/bridged_transfer/table3_dsi.py:cars --workdir W            # one data set in full

The paper's numbers (%):

| | Aircraft | Cars | DTD | Food | SUN397 |
|---|---|---|---|---|---|
| single template | 85.2 | 91.6 | 72.3 ± 0.3 | 84.2 | 60.8 |
| style inversion | 85.8 | 92.0 | 72.7 ± 0.3 | 84.6 | 63.4 |

This file is the template's row. The other row is the same study on a generator that has learned the word (`bridgejax
invert`), with `prompts.template = "A {} photo in the style of WORD"`; the paper trains one word for 20,000 steps. Ours: not
run by this file. What it would cost at full size is counted by `python benchmarks/paper_cost.py`
(docs/results/paper_cost.md).
"""

from __future__ import annotations

from typing import Any

from bridgejax.studies.paper import paper_config

FULL = ("aircraft", "cars", "dtd", "food", "sun397")


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    config.arms = ("vanilla_long", "bridged_plus_plus")
    return config
