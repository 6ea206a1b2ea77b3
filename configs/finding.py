"""The finding: does bridged transfer beat the step-matched control and plain mixing on the embedded photographs?

    bridgejax run --config configs/finding.py --workdir finding

Ten seeds at one and at four real photographs per class; the recipes and rates are those of configs/quickstart.py,
each arm's rate the best of three on another task. What came out stands in docs/results/quickstart.md.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def get_config(arg: str | None = None) -> Any:
    """Returns the quick start's config with more seeds and shot counts; `arg`, if given, is the number of seeds."""
    spec = importlib.util.spec_from_file_location("quickstart", Path(__file__).with_name("quickstart.py"))
    if spec is None or spec.loader is None:
        raise ImportError("configs/quickstart.py is missing beside configs/finding.py")
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    config = quickstart.get_config()
    config.arms = ("vanilla_long", "mixed", "bridged_plus_plus")
    config.study.shots = (1, 4)
    config.study.seeds = int(arg) if arg else 10
    config.training.base_steps = 20
    config.training.evaluations = 1
    return config
