"""What synthetic images are worth at 1, 2, 4 and 8 photographs per class: ten seeds of the quick start's arms.

    bridgejax study --config configs/two_tasks.py --workdir photos                 # builtin:tux_photos
    python tools/build_gcompris_task.py --output gcompris_task
    bridgejax study --config configs/two_tasks.py:folder:gcompris_task --workdir gcompris
    python -m benchmarks two_tasks                                                 # both, and docs/results/two_tasks.md

Recipes, rates and lengths are those of configs/quickstart.py; nothing was chosen on either task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridgejax.config import load_config


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg`, if given, is the task.source."""
    config = load_config(str(Path(__file__).with_name("quickstart.py")))
    config.task.source = arg or config.task.source
    config.arms = ("vanilla_long", "synthetic_only", "mixed_50", "bridged")
    config.study.shots = (1, 2, 4, 8)
    config.study.seeds = 10
    config.training.evaluations = 0
    return config
