"""The settings that the other configs take over: rates by arm, crop and batch statistics, chosen on a task of its own.

    python tools/build_emoji_task.py --output emoji_task
    bridgejax run --config configs/tuning.py --workdir tuning             # rates of five arms, three candidates each
    bridgejax run --config configs/tuning.py:inputs --workdir inputs      # batch statistics and rate, for one crop
    python -m benchmarks tuning                                           # all of it, and docs/results/tuning.md

Ten of the classes of `builtin:tux_photos`, drawn as 3D emoji: no photograph takes part, so its test part is validation for
everything that is then measured on the photographs. Every arm has the same number of candidates, shots and seeds.
"""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

INPUT_RATES = (0.003, 0.01, 0.02)
RATES = (0.001, 0.003, 0.01)
ARMS = ("vanilla_long", "synthetic_only", "mixed", "bridged", "bridged_plus_plus")


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` "inputs" compares batch statistics at each rate for the step-matched control alone."""
    spec = importlib.util.spec_from_file_location("quickstart", Path(__file__).with_name("quickstart.py"))
    if spec is None or spec.loader is None:
        raise ImportError("configs/quickstart.py is missing beside configs/tuning.py")
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    config = quickstart.get_config()
    config.task.source = "folder:emoji_task"
    config.task.validation_per_class = 0
    config.training.base_steps = 20
    config.training.evaluations = 1
    config.recipes.synthetic_only = ({"data": "synthetic"},)  # half as long as the others: what was tuned
    plain = config.recipes.to_dict()
    if arg == "inputs":
        candidates = [("vanilla_long", {"learning_rate": r, "batch_norm": b}) for r in INPUT_RATES for b in ("frozen", "train")]
    else:
        candidates = [(arm, {"learning_rate": rate}) for arm in ARMS for rate in RATES]
        config.study.shots = (1, 4)
    arms = []
    for recipe, settings in candidates:
        # No dots in names: "vanilla_long-3e-3-frozen".
        name = "-".join([recipe, *(f"{v:.0e}".replace("e-0", "e-") if isinstance(v, float) else v for v in settings.values())])
        config.recipes[name] = tuple({**stage, **settings} for stage in copy.deepcopy(plain[recipe]))
        arms.append(name)
    config.arms = tuple(arms)
    config.study.baseline = arms[0]
    config.study.seeds = 2 if arg == "inputs" else 1  # the rates are compared at two shot counts
    return config
